"""The report: it holds the numbers, and nothing that would have to be loaded from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from small_task import SmallConfig, small_recipe

from cuesta.engine.finish import TrainResult
from cuesta.engine.loop import train
from cuesta.engine.page import number
from cuesta.engine.pictures import chart_svg
from cuesta.engine.section import Chart, Series

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collect what a page shows and refers to; complain of tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        names = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
        self.references += [value or "" for name, value in attrs if name in names]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data.strip())


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Return the outcome of one run with its report."""
    folder = tmp_path_factory.mktemp("report") / "a <run> & co"
    return train(small_recipe(SmallConfig(num_rows=400)), folder)


@pytest.fixture(scope="module")
def page(result: TrainResult) -> Page:
    """Return the parsed report."""
    page = Page()
    page.feed(result.report.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def test_the_report_shows_every_metric_of_both_splits(result: TrainResult, page: Page) -> None:
    for metrics in (result.validation, result.test):
        for name, value in metrics.items():
            assert number(value) in page.words, name


def test_the_report_shows_recipe_environment_and_command(result: TrainResult, page: Page) -> None:
    text = " ".join(page.words)
    for part in ("task.num_rows 400", "optim.lr 0.01", "loop.evaluate_every 3", "versions.torch"):
        assert part in re.sub(r"\s+", " ", text)
    assert "How to repeat this" in text
    assert f"best at step {result.best_step}" in text


def test_the_report_draws_curves_reliability_histogram_and_slices(page: Page) -> None:
    for title in ("Training loss", "Validation NE", "Reliability", "Scores by label", "By id"):
        assert title in page.words


def test_the_report_refers_to_nothing_outside_itself(result: TrainResult, page: Page) -> None:
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    text = result.report.read_text(encoding="utf-8")
    assert not re.search(r"https?://|//\w+\.|@import|url\((?!#)", text)


def test_a_chart_takes_its_colours_and_font_from_the_page() -> None:
    lines = Series(name="a & b", x=(0.0, 1.0, 2.0), y=(0.0, 3.0, 1.0))
    svg = chart_svg(Chart(title="<one>", x_label="x", y_label="y", series=(lines, lines)))
    assert svg.startswith("<svg ")
    assert "var(--series-0)" in svg
    assert "var(--series-1)" in svg
    assert not re.search(r"#0102\w\w|font-family|xmlns|<one>|<style", svg)


def test_equal_runs_have_equal_pictures(result: TrainResult, tmp_path: Path) -> None:
    again = train(small_recipe(SmallConfig(num_rows=400)), tmp_path / "again")
    pictures = [
        re.findall(r"<svg.*?</svg>", one.report.read_text(encoding="utf-8"), flags=re.DOTALL)
        for one in (result, again)
    ]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 7

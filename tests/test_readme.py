"""The README and the pages of docs/ tell the truth: their code runs, what they name exists, and the
table of systems claims no more than there is.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cuesta.cli.bench import BENCHES
from cuesta.cli.data import DATA_NAMES
from cuesta.cli.main import build_parser
from cuesta.cli.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "cuesta").rglob("README.md")),
]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SYSTEMS = {
    "Neo / ZionEX": "cuesta/rec/neo",
    "2D sparse parallelism": "cuesta/rec/sparse2d",
    "FIITED": "cuesta/rec/fiited",
    "Jagged Flash Attention": "cuesta/rec/jagged_flash",
    "Kunlun": "cuesta/rec/kunlun",
    "ExFM": "cuesta/rec/exfm",
    "TerraSky3D": "cuesta/vision/terrasky3d",
    "ICG-MVSNet": "cuesta/vision/icg_mvsnet",
    "C3-GS": "cuesta/vision/c3gs",
    "LEAR": "cuesta/vision/lear",
}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [code for _, name, code in found if name == language]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def system_rows() -> dict[str, tuple[str, str]]:
    """Return folder and status of every row of the table of systems."""
    rows = re.findall(
        r"^\| \d+ \| ([^|]+) \| `([^`]+)` \| [^|]+ \| ([^|]+) \|$", README.read_text(), re.MULTILINE
    )
    return {name.strip(): (folder, status.strip()) for name, folder, status in rows}


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every `cuesta …` in a page's shell blocks and code spans."""
    text = "\n".join(blocks(page, "bash"))
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    for line in [*text.splitlines(), *spans]:
        words = line.split("#")[0].split()
        if words and words[0] == "cuesta":
            yield words[1:]


def test_the_readme_is_short_and_shows_python_early() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert lines.index("```python") < 35


@pages
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = blocks(page, "python")
    if page == README:
        assert code
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in code:
        exec(compile(block, str(page), "exec"), names)


@pages
def test_paths_exist(page: Path) -> None:
    text = prose(page)
    missing = []
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in link and not (page.parent / link.split("#")[0]).exists():
            missing.append(link)
    planned = {folder for folder, status in system_rows().values() if status.startswith("not yet")}
    for span in re.findall(r"`([^`\n]+)`", text):
        is_path = re.fullmatch(r"(cuesta|docs|examples|tests|benchmarks|\.ci)/[\w./-]+", span)
        if is_path and span not in planned and "NAME" not in span and not (ROOT / span).exists():
            missing.append(span)
    assert not missing, f"{page.name} names what is not there: {missing}"


@pages
def test_commands_recipes_and_benches_exist(page: Path) -> None:
    (verbs,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    known = {"train": RECIPES, "bench": BENCHES, "get": DATA_NAMES, "make": DATA_NAMES}
    for words in commands(page):
        if not words or words[0].startswith("-"):
            continue
        assert words[0] in verbs.choices, f"{page.name}: cuesta {' '.join(words)}"
        rest = words[1:] if words[0] == "data" else words
        named = rest[1] if len(rest) > 1 else ""
        if rest and rest[0] in known and named and not named.startswith("-") and named.islower():
            assert named in known[rest[0]], f"{page.name}: cuesta {' '.join(words)}"
    for name in re.findall(r"`((?:dlrm|dcnv2|stream)\.(?!json|parquet)\w+)`", prose(page)):
        assert name in {**RECIPES, **DATA_NAMES}, f"{page.name} names {name}"


@pages
def test_flags_exist(page: Path) -> None:
    from cuesta.cli.recipes import recipe_named
    from cuesta.engine.override import settings
    from cuesta.vision.terrasky3d.recipes import laptop

    known = {flag for name in RECIPES for flag in settings(recipe_named(name))}
    known |= set(settings(laptop()))
    text = page.read_text(encoding="utf-8")
    groups = "|".join(sorted({flag[2:].split(".")[0] for flag in known}))
    for flag in re.findall(rf"(--(?:{groups})\.[\w.-]+)", text):
        assert flag.rstrip(".") in known, f"{page.name} names {flag}"


@pages
def test_make_targets_exist(page: Path) -> None:
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join([*blocks(page, "bash"), *re.findall(r"`([^`\n]+)`", prose(page))])
    assert set(re.findall(r"^make (\w+)", text, re.MULTILINE)) <= rules


def test_the_table_names_all_ten_systems_and_claims_no_more_than_there_is() -> None:
    rows = system_rows()
    assert {name: folder for name, (folder, _) in rows.items()} == SYSTEMS
    for name, (folder, status) in rows.items():
        assert status.startswith(("works", "not yet")), f"{name}: {status}"
        assert status.startswith("not yet") or (ROOT / folder / "README.md").exists(), name


def test_a_schema_in_a_page_is_a_schema(tmp_path: Path) -> None:
    from cuesta.data import load_schema

    for page in (README, ROOT / "docs" / "data.md"):
        for number, block in enumerate(blocks(page, "toml")):
            path = tmp_path / f"{page.stem}_{number}.toml"
            path.write_text(block, encoding="utf-8")
            assert load_schema(path).features

"""The house rules that a machine can keep: one legend of shapes, a docstring a file, no vague names
of folders, and nothing in the tree that names the place where it was written.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "cuesta").rglob("*.py"))
SHAPED = re.compile(r"(Float|BFloat|Int|UInt|Bool|Shaped|Num|Inexact|Real|Complex|Integer)\d*")
VAGUE = {"utils", "util", "common", "core", "misc", "helpers"}
PUBLIC_HOSTS = {
    "www.apache.org", "doi.org", "arxiv.org", "pytorch.org", "pypi.org", "github.com", "mlcommons.org",
    "purl.org", "schema.org",
}  # fmt: skip
# Folders that exist where this was written and nowhere else; spelt so as not to match themselves.
LOCAL_PATH = re.compile(r"(?<![\w.-])/(?:work|tmp/w)\b")


def legend() -> set[str]:
    """Return the letters in the table of docs/conventions.md."""
    page = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    table = page.split("## Letters of shapes")[1].split("\n## ")[0]
    return set(re.findall(r"\| `([A-Z])` \|", table))


def shapes(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and shape string of every jaxtyping annotation in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Tuple):
            continue
        last = node.slice.elts[-1]
        is_shaped = isinstance(node.value, ast.Name) and SHAPED.fullmatch(node.value.id)
        if is_shaped and isinstance(last, ast.Constant) and isinstance(last.value, str):
            yield node.lineno, last.value


def letters(shape: str) -> set[str]:
    """Return the single letters in a shape: those of ` F*B+1` are F and B."""
    return {word for word in re.findall(r"[A-Za-z_]+", shape) if len(word) == 1 and word != "_"}


def tree() -> list[Path]:
    """Return every text file that git keeps, or would."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_the_legend_is_that_of_the_project() -> None:
    assert legend() == set("BTLDHVCYXPEGKF")


def test_letters_of_an_expression_are_found() -> None:
    assert letters(" F*B+1") == {"F", "B"}
    assert letters("*N rows _ ...") == {"N"}


def test_every_letter_of_a_shape_is_in_the_legend() -> None:
    known = legend()
    unknown = [
        (str(path), line, shape)
        for path in SOURCES
        for line, shape in shapes(path)
        if not letters(shape) <= known
    ]
    assert not unknown, "use a letter of docs/conventions.md, or a word"


def test_shapes_are_found_at_all() -> None:
    assert sum(1 for path in SOURCES for _ in shapes(path)) > 50


def test_a_file_opens_with_a_paragraph() -> None:
    python = [path for path in tree() if path.suffix == ".py" and path.read_text().strip()]
    assert len(python) > len(SOURCES) / 2
    bad = []
    for path in python:  # an __init__.py in a folder of tests may be empty
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if not docstring.split("\n\n")[0].rstrip().endswith((".", ":")):
            bad.append(str(path))
    assert not bad, "one paragraph: what it is, from where"


def test_no_folder_has_a_vague_name() -> None:
    folders = {part for path in tree() for part in path.relative_to(ROOT).parts[:-1]}
    assert not folders & VAGUE


def test_nothing_names_the_place_where_it_was_written() -> None:
    found = []
    for path in tree():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [(str(path), match.group()) for match in LOCAL_PATH.finditer(text)]
        if "index-url" in text.replace('"index-url"', ""):
            found.append((str(path), "a package index"))
    assert not found


def test_every_address_is_public() -> None:
    found = {
        (str(path), host)
        for path in tree()
        for host in re.findall(
            r"https?://([A-Za-z0-9.-]+)", path.read_bytes().decode("utf-8", errors="ignore")
        )
        if host not in PUBLIC_HOSTS and not host.startswith("127.")
    }
    assert not found, "a host that readers may not reach; if it is public, list it here"

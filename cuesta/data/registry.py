"""Registered data sets: fetched, converted to Parquet and a schema, and kept with a manifest.

```
$CUESTA_DATA, else $XDG_CACHE_HOME/cuesta, else ~/.cache/cuesta
├── downloads/          the sources as they came
└── ml-100k/            *.parquet  schema.toml  manifest.json (SHA-256 of each file)
```
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

from cuesta.data.files import atomic_folder, sha256_of
from cuesta.data.sources import PackageSource, Source, fetch
from cuesta.errors import UserError


@final
@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Describe a data set; `converter` is module:function, called with the source and a folder."""

    name: str
    summary: str
    licence: str
    citation: str
    source: Source
    converter: str
    version: int  # of the conversion; a folder of another version is made anew


DATA_SETS: dict[str, DataSet] = {
    "ml-100k": DataSet(
        name="ml-100k",
        summary="100,000 ratings of 1,682 films by 943 people, 1997-98; label: rating >= 4",
        licence=(
            "GroupLens, University of Minnesota: for research; no commercial use and no "
            "redistribution without their permission; no endorsement may be implied; cite the "
            "paper. cuesta does not carry the data: it is taken from the examples in the recbole "
            "1.2.1 wheel, on your machine."
        ),
        citation=(
            "F. M. Harper and J. A. Konstan. The MovieLens Datasets: History and Context. ACM "
            "Transactions on Interactive Intelligent Systems 5, 4, article 19, 2015. "
            "https://doi.org/10.1145/2827872"
        ),
        source=PackageSource(
            name="recbole",
            version="1.2.1",
            file="recbole-1.2.1-py3-none-any.whl",
            sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        ),
        converter="cuesta.data.ml_100k:convert",
        version=1,
    )
}


def data_root() -> Path:
    """Return the folder that data sets are kept in."""
    if root := os.environ.get("CUESTA_DATA"):
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cuesta"


def get_data_set(name: str, *, root: str | Path | None = None) -> Path:
    """Return the folder of a registered data set, made first when it is not there.

    `open_ranking_data` opens it. The second time it is only checked against its manifest. Raises
    `UserError` for an unknown name, a failed download, a damaged folder.
    """
    data_set = find_data_set(name)
    root = Path(root) if root is not None else data_root()
    folder = root / name
    if _version(folder) == data_set.version:
        verify_manifest(folder)
        return folder
    source = fetch(data_set.source, root / "downloads")
    with atomic_folder(folder, overwrite=True) as temporary:
        _load(data_set.converter)(source, temporary)
        files = sorted(file.name for file in temporary.iterdir())
        manifest = {
            "name": data_set.name,
            "version": data_set.version,
            "licence": data_set.licence,
            "citation": data_set.citation,
            "source": {"file": data_set.source.file, "sha256": data_set.source.sha256},
            "files": {file: sha256_of(temporary / file) for file in files},
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return folder


def find_data_set(name: str) -> DataSet:
    """Return the registered data set; raise `UserError` with the known names for another."""
    if name not in DATA_SETS:
        raise UserError(f"no data set {name!r}; choose one of {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def verify_manifest(folder: str | Path) -> None:
    """Raise `UserError` unless every file of a data set's folder is as its manifest says."""
    folder = Path(folder)
    for file, expected in _read_manifest(folder).files.items():
        path = folder / file
        if not path.is_file() or sha256_of(path) != expected:
            what = "has changed" if path.exists() else "is missing"
            raise UserError(f"{path} {what} since it was made; remove {folder} and get it again")


def _version(folder: Path) -> int | None:
    return _read_manifest(folder).version if folder.exists() else None


class _Manifest(NamedTuple):
    version: int
    files: dict[str, str]


def _read_manifest(folder: Path) -> _Manifest:
    try:
        tree = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return _Manifest(int(tree["version"]), dict(tree["files"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'manifest.json'} cannot be read ({error}); remove {folder}, get it again"
        ) from error


def _load(converter: str) -> Callable[[Path, Path], None]:
    module, function = converter.split(":")
    return getattr(importlib.import_module(module), function)

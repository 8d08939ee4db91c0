"""Archives of a data set's scenes: .tar files whose bytes depend on names and contents alone, and are
read without trust.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cuesta.data.files import atomic_file
from cuesta.data.scenes.views import is_inside

_BLOCK = 1 << 20
_MODE = 0o644


class Member(NamedTuple):
    """Hold a file of an archive: its name, size and SHA-256; `complaint` says why it is none, or ''."""

    name: str
    num_bytes: int
    sha256: str
    complaint: str


def write_archive(path: Path, root: Path, names: Sequence[str]) -> None:
    """Write files below `root` to a .tar, sorted by name, without times, owners or rights of theirs.

    The archive appears whole or not at all. Raises `UserError` as `atomic_file` does.
    """
    with (
        atomic_file(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(names):
            with open(root / name, "rb") as file:
                about = tarfile.TarInfo(name)
                about.size, about.mode = (root / name).stat().st_size, _MODE
                tar.addfile(about, file)


def read_members(path: Path, sizes: dict[str, int]) -> Iterator[Member]:
    """Yield the members of a .tar, reading no more of each than `sizes` says it has.

    A member that is no plain file, leads out of its folder, is not in `sizes` or of another size is
    told and not read. Raises `tarfile.TarError` or `OSError` where the archive is broken.
    """
    with tarfile.open(path, "r:") as tar:
        for about in tar:
            complaint = _complaint(about, sizes)
            if complaint:
                yield Member(about.name, about.size, "", complaint)
                continue
            digest = hashlib.sha256()
            file = tar.extractfile(about)
            assert file is not None  # it is a plain file
            while block := file.read(_BLOCK):
                digest.update(block)
            yield Member(about.name, about.size, digest.hexdigest(), "")


def _complaint(about: tarfile.TarInfo, sizes: dict[str, int]) -> str:
    if not is_inside(about.name):
        return "leads out of the folder"
    if not about.isreg():
        return "is no plain file"
    if about.name not in sizes:
        return "is not in the manifest"
    if about.size != sizes[about.name]:
        return f"has {about.size} bytes, the manifest says {sizes[about.name]}"
    return ""

"""Where a registered data set comes from: a URL, a local file, or a package on the Python index.

`fetch` returns the file with its SHA-256 checked. What is downloaded is kept in a folder, where a
person without a network may put it by hand. A download that fails or is not what it should be
leaves nothing behind.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import final

from cuesta.data.files import atomic_file, sha256_of
from cuesta.errors import UserError

_CHUNK = 2**20


@final
@dataclass(frozen=True)
class UrlSource:
    """Name a file on the web."""

    url: str
    sha256: str
    max_bytes: int = 2**34

    @property
    def file(self) -> str:
        """Return the file's name."""
        return self.url.rsplit("/", 1)[-1]


@final
@dataclass(frozen=True)
class PackageSource:
    """Name a wheel of a package on the Python index."""

    name: str
    version: str
    file: str
    sha256: str


@final
@dataclass(frozen=True)
class PathSource:
    """Name a local file."""

    path: Path
    sha256: str

    @property
    def file(self) -> str:
        """Return the file's name."""
        return self.path.name


Source = UrlSource | PackageSource | PathSource


def fetch(source: Source, downloads: Path) -> Path:
    """Return the source's file, downloaded into `downloads` unless it is there.

    Raises `UserError` that says what failed and how to go on without a network.
    """
    if isinstance(source, PathSource):
        if not source.path.is_file():
            raise UserError(f"{source.path}: no such file; name the file to convert")
        _check_hash(source.path, source, "name the right file")
        return source.path
    kept = downloads / source.file
    if not kept.exists():
        with atomic_file(kept) as temporary:
            _download(source, temporary, kept)
            _check_hash(temporary, source, "try again, or get it from another network")
    _check_hash(kept, source, "remove it and try again")
    return kept


def read_members(archive: Path, names: Sequence[str], *, max_bytes: int) -> list[bytes]:
    """Return members of a zip file (a wheel is one) by their exact names, each at most `max_bytes`.

    Nothing is written, so no name in the archive can reach a path.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = []
            for name in names:
                with opened.open(name) as member:
                    members.append(member.read(max_bytes + 1))
                if len(members[-1]) > max_bytes:
                    raise UserError(f"{archive}: {name} is larger than {max_bytes} bytes; refused")
            return members
    except KeyError as error:
        raise UserError(f"{archive}: {error.args[0]}; it is not the expected archive") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive}: a broken zip file ({error}); remove it, try again") from error


def _download(source: UrlSource | PackageSource, target: Path, kept: Path) -> None:
    failure = (
        _download_url(source, target)
        if isinstance(source, UrlSource)
        else _download_package(source, target)
    )
    if failure:
        raise UserError(
            f"cannot download {source.file}: {failure}; check the network, or get the file "
            f"elsewhere (SHA-256 {source.sha256}) and put it at {kept}"
        )


def _download_url(source: UrlSource, target: Path) -> str | None:
    """Write the file to `target`; return what failed, if anything."""
    try:
        with urllib.request.urlopen(source.url, timeout=60) as answer, open(target, "wb") as file:
            num_bytes = 0
            while chunk := answer.read(_CHUNK):
                num_bytes += len(chunk)
                if num_bytes > source.max_bytes:
                    return f"{source.url} sends more than {source.max_bytes} bytes"
                file.write(chunk)
            expected = answer.headers.get("Content-Length")
        if expected is not None and num_bytes != int(expected):
            return f"{source.url} broke off after {num_bytes} of {expected} bytes"
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        return f"{source.url}: {getattr(error, 'reason', error)}"
    return None


def _download_package(source: PackageSource, target: Path) -> str | None:
    """Write the wheel to `target`; return what failed, if anything."""
    with TemporaryDirectory(dir=target.parent, prefix=".tmp-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--quiet", "--dest", folder]
        requirement = f"{source.name}=={source.version}"
        done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
        wheel = Path(folder) / source.file
        if done.returncode or not wheel.exists():
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            said = (errors or done.stderr.splitlines() or ["it says nothing"])[-1]
            return f"pip download {requirement} failed ({said.removeprefix('ERROR: ').strip()})"
        wheel.replace(target)
    return None


def _check_hash(file: Path, source: Source, remedy: str) -> None:
    found = sha256_of(file)
    if found != source.sha256:
        raise UserError(
            f"{source.file}: SHA-256 is {found}, expected {source.sha256}; the file is truncated "
            f"or another one: {remedy}"
        )

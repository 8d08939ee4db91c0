"""Files and folders that appear complete or not at all.

Every file that cuesta writes goes through `atomic_file` or `atomic_folder`: it is written under a
temporary name beside its target, synced and renamed. A write that fails (full disk, no permission,
an exception, Ctrl-C) leaves the target as it was and removes what was begun. What a killed process
could not remove is a hidden file, swept by the next write of the same target.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cuesta.errors import UserError

_REMEDIES = {
    errno.ENOENT: "the folder cannot be made there; choose another",
    errno.ENOSPC: "the disk is full; free some space or write to another one",
    errno.EDQUOT: "the disk quota is used up; free some space or write to another disk",
    errno.EFBIG: "the file-size limit is reached; raise it (ulimit -f) or write smaller files",
    errno.EACCES: "no permission; choose another path or change the folder's rights",
    errno.EPERM: "no permission; choose another path or change the folder's rights",
    errno.EROFS: "the file system is read-only; choose another path",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.EISDIR: "it is a folder; choose another path",
    errno.EEXIST: "a part of the path is a file, not a folder; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter path",
}


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; it becomes `path` when the block ends and vanishes when it raises.

    The temporary path has the suffix of `path`, for writers that choose a format by it. Missing
    parent folders are made, an existing file is replaced. Raises `UserError` naming `path` and the
    remedy for a full disk, a missing right and the like.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "answer.txt"
    >>> with atomic_file(target) as temporary:
    ...     _ = temporary.write_text("42")
    >>> target.read_text()
    '42'
    """
    with _atomic(Path(path)) as temporary:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; it becomes `path` when the block ends and vanishes when it raises.

    Raises `UserError` when `path` exists and `overwrite` is false, and as `atomic_file` does.
    """
    path = Path(path)
    if not overwrite:
        _refuse_existing(path)
    with _atomic(path) as temporary:
        temporary.mkdir()
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        _sync(temporary)
        if overwrite and path.exists():
            retired = _temporary_name(path)
            os.rename(path, retired)
            os.rename(temporary, path)
            _remove(retired)
        else:
            _refuse_existing(path)
            os.rename(temporary, path)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, sync its folder, remove the temporary in any case."""
    temporary = _temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_leftovers(path)
        yield temporary
        _sync(path.parent)
    except Exception as error:
        number = _error_number(error, path)
        if number is None:
            raise
        raise UserError(f"cannot write {path}: {_REMEDIES[number]}") from error
    finally:
        _remove(temporary)


def _error_number(error: Exception, path: Path) -> int | None:
    """Return which known error of writing `path` this is, also where a library wraps it."""
    if isinstance(error, UserError):
        return None
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        culprit = path if error.filename is None else Path(os.fsdecode(error.filename))
        is_ours = culprit.is_relative_to(path.parent) or path.is_relative_to(culprit)
        return error.errno if is_ours else None
    if os.strerror(errno.ENOSPC).lower() in str(error).lower():
        return errno.ENOSPC
    return None


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".tmp-{_owner(os.getpid())}-{secrets.token_hex(4)}-{path.name}")


def _owner(process: int) -> str:
    return f"{socket.gethostname()}-{process}"


def _sweep_leftovers(path: Path) -> None:
    """Remove the temporaries for `path` whose process, on this machine, is no longer alive."""
    machine = socket.gethostname()
    for leftover in path.parent.glob(f".tmp-{machine}-*-{path.name}"):
        process, _, rest = leftover.name.removeprefix(f".tmp-{machine}-").partition("-")
        if rest[9:] == path.name and process.isdigit() and not _is_alive(int(process)):
            _remove(leftover)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} already exists; choose another path or overwrite it on purpose")


def _sync(path: Path) -> None:
    """Wait until the file or the folder's list of names is on disk."""
    if path.is_symlink() or os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink(missing_ok=True)

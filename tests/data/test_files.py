"""Files and folders appear complete or not at all, whatever stops the writing."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cuesta.data import atomic_file, atomic_folder
from cuesta.data.files import write_text
from cuesta.errors import UserError


def fail_half_way(target: Path, error: Exception) -> None:
    with atomic_file(target) as temporary:
        temporary.write_text("half")
        raise error


def test_a_written_file_replaces_the_old_one_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    write_text(target, "one")
    write_text(target, "two")
    assert target.read_text() == "two"
    assert os.listdir(target.parent) == ["a.txt"]


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="boom"):
        fail_half_way(target, RuntimeError("boom"))
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_temporary_file_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.parquet") as temporary:
        assert temporary.suffix == ".parquet"
        assert temporary.name.startswith(".")
        temporary.touch()


def test_a_failing_folder_is_not_there(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "a") as temporary:
            (temporary / "x").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_refused_unless_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "a"
    for overwrite, content in ((False, "one"), (True, "two")):
        with atomic_folder(target, overwrite=overwrite) as temporary:
            (temporary / "x").write_text(content)
    with (
        pytest.raises(UserError, match="a already exists; choose another path"),
        atomic_folder(target),
    ):
        pytest.fail("the block must not run")
    assert (target / "x").read_text() == "two"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
    ],
)
def test_a_failure_of_the_system_is_one_line_with_its_remedy(
    tmp_path: Path, number: int, remedy: str
) -> None:
    with pytest.raises(UserError, match=rf"cannot write \S+a\.txt: .*{remedy}") as caught:
        fail_half_way(tmp_path / "a.txt", OSError(number, os.strerror(number)))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_told_by_a_library_is_understood(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the disk is full"):
        fail_half_way(tmp_path / "a", RuntimeError("No space left on device (os error 28)"))


def test_an_error_of_reading_something_else_is_not_taken_for_ours(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        fail_half_way(tmp_path / "a", PermissionError(errno.EACCES, "denied", "/elsewhere/input"))


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="a part of the path is a file"):
        write_text(tmp_path / "a" / "b.txt", "x")


def test_a_file_size_limit_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match="file-size limit"):
            write_text(tmp_path / "a.txt", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_hidden_and_swept_by_the_next_write(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    script = (
        "import os, signal, sys; from cuesta.data.files import atomic_file\n"
        "with atomic_file(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    (leftover,) = os.listdir(tmp_path)
    assert leftover.startswith(".")
    write_text(target, "whole")
    assert os.listdir(tmp_path) == ["a.txt"]

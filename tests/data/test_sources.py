"""Sources are fetched whole with the right hash or not at all; data sets are made once."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import os
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cuesta.data import DATA_SETS, get_data_set
from cuesta.data import registry as registry_module
from cuesta.data.registry import DataSet, data_root
from cuesta.data.sources import PackageSource, PathSource, UrlSource, fetch, read_members
from cuesta.errors import UserError

CONTENT = b"user,item\n1,2\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def copy(source: Path, folder: Path) -> None:
    """Stand for a converter."""
    (folder / "log.csv").write_bytes(source.read_bytes())


def fail(source: Path, folder: Path) -> None:
    """Stand for a converter that breaks half-way."""
    copy(source, folder)
    raise RuntimeError("half-way")


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    source = tmp_path / "source.csv"
    source.write_bytes(CONTENT)
    made = DataSet(
        name="tiny",
        summary="",
        licence="free",
        citation="none",
        source=PathSource(source, SHA256),
        converter=f"{__name__}:copy",
        version=1,
    )
    monkeypatch.setitem(DATA_SETS, "tiny", made)
    monkeypatch.setenv("CUESTA_DATA", str(tmp_path / "root"))
    return made


@pytest.fixture
def server() -> Iterator[str]:
    """Serve CONTENT, and at /short only its half under a false length."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path == "/none" else 200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: 700 if self.path == "/short" else None])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_a_url_is_fetched_once(server: str, tmp_path: Path) -> None:
    source = UrlSource(f"{server}/data.csv", SHA256)
    file = fetch(source, tmp_path)
    assert file.read_bytes() == CONTENT
    unreachable = dataclasses.replace(source, url="http://127.0.0.1:9/data.csv")
    assert fetch(unreachable, tmp_path) == file


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        ("/short", {}, "broke off after 700 of 14000 bytes; check the network, or get the file"),
        ("/data.csv", {"sha256": "0" * 64}, "SHA-256 is .*, expected 000.*truncated or another"),
        ("/data.csv", {"max_bytes": 100}, "sends more than 100 bytes"),
        ("/none", {}, "Not Found"),
    ],
)
def test_a_bad_download_is_told_and_leaves_nothing(
    server: str, tmp_path: Path, path: str, changes: dict[str, object], message: str
) -> None:
    source = dataclasses.replace(UrlSource(server + path, SHA256), **changes)
    with pytest.raises(UserError, match=message) as caught:
        fetch(source, tmp_path / "downloads")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "downloads") == []


def pip_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program in place of the interpreter that would run pip."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_package_comes_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheel").write_bytes(CONTENT)
    find_folder = 'while [ "$1" != --dest ]; do shift; done'
    pip_that(tmp_path, monkeypatch, f'{find_folder}; cp "{tmp_path}/wheel" "$2/a-1.whl"')
    source = PackageSource("a", "1", "a-1.whl", SHA256)
    assert fetch(source, tmp_path / "downloads").read_bytes() == CONTENT
    assert os.listdir(tmp_path / "downloads") == ["a-1.whl"]


def test_a_failing_pip_is_told_with_the_way_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_that(tmp_path, monkeypatch, "echo 'WARNING: x' >&2; echo 'ERROR: no index' >&2; exit 1")
    with pytest.raises(
        UserError, match=r"pip download a==1 failed \(no index\); .*put it at \S+downloads/a-1.whl"
    ):
        fetch(PackageSource("a", "1", "a-1.whl", SHA256), tmp_path / "downloads")
    assert os.listdir(tmp_path / "downloads") == []


def test_members_are_read_by_exact_name_and_bounded(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a/b", CONTENT)
        opened.writestr("../escape", b"x")
    assert read_members(archive, ["a/b"], max_bytes=len(CONTENT)) == [CONTENT]
    with pytest.raises(UserError, match="a/b is larger than 100 bytes"):
        read_members(archive, ["a/b"], max_bytes=100)
    with pytest.raises(UserError, match="no item named 'c'"):
        read_members(archive, ["c"], max_bytes=100)
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(UserError, match="a broken zip file"):
        read_members(archive, ["a/b"], max_bytes=100)
    assert not (tmp_path.parent / "escape").exists()


def test_a_data_set_is_made_once_with_its_manifest(
    data_set: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = get_data_set("tiny")
    assert folder == data_root() / "tiny"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"] == {"log.csv": SHA256}
    assert manifest["licence"] == data_set.licence
    monkeypatch.setattr(registry_module, "fetch", None)
    assert get_data_set("tiny") == folder


def test_another_version_is_made_anew(data_set: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = get_data_set("tiny")
    (folder / "old").touch()
    monkeypatch.setitem(DATA_SETS, "tiny", dataclasses.replace(data_set, version=2))
    get_data_set("tiny")
    assert sorted(os.listdir(folder)) == ["log.csv", "manifest.json"]


@pytest.mark.parametrize("damage", ["change", "remove", "manifest"])
def test_a_damaged_data_set_is_told(data_set: DataSet, damage: str) -> None:
    del data_set
    folder = get_data_set("tiny")
    if damage == "change":
        (folder / "log.csv").write_bytes(CONTENT[:-1])
    else:
        (folder / {"remove": "log.csv", "manifest": "manifest.json"}[damage]).unlink()
    with pytest.raises(UserError, match=r"remove \S+tiny(,| and) get it again"):
        get_data_set("tiny")


def test_a_conversion_that_fails_leaves_nothing(
    data_set: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = dataclasses.replace(data_set, converter=f"{__name__}:fail")
    monkeypatch.setitem(DATA_SETS, "tiny", failing)
    with pytest.raises(RuntimeError):
        get_data_set("tiny")
    assert os.listdir(data_root()) == []


def test_an_unknown_data_set_names_the_known() -> None:
    with pytest.raises(UserError, match="no data set 'ml-1m'; choose one of ml-100k"):
        get_data_set("ml-1m")


def test_the_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUESTA_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_root() == tmp_path / "cuesta"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root() == Path.home() / ".cache" / "cuesta"


def test_every_data_set_states_its_terms() -> None:
    for name, data_set in DATA_SETS.items():
        assert data_set.name == name
        assert data_set.licence
        assert data_set.citation
        assert len(data_set.source.sha256) == 64

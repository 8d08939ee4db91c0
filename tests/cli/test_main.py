"""The command: quick help, one-line errors with status 2, a killed run resumed to the same
bytes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cuesta.cli.main import main


def finished(capsys, *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    said = capsys.readouterr()
    assert exit_.value.code == 0, said.err
    return said.out


def status_and_error(capsys, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    return exit_.value.code, capsys.readouterr().err.strip()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom cuesta.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'numba', 'polars', 'pyarrow', 'tyro', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_list_needs_no_torch_and_names_everything(capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["list", "--json"])
    assert exit_.value.code == 0
    everything = json.loads(capsys.readouterr().out)
    assert "dcnv2.ml100k" in everything["recipes"]
    assert "ml-100k" in everything["data"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "dlrm.debgu"], "did you mean dlrm.debug?"),
        (["train", "dlrm.debug", "--optim.lrr", "1"], "did you mean --optim.lr?"),
        (["train", "dlrm.debug", "--optim.lr", "fast"], "--optim.lr"),
        (["train", "dlrm.debug", "--task.data", "/no/such/log"], "no data '/no/such/log'"),
        (["train", "dlrm.debug", "--task.data", "stream.huge"], "choose one of stream.mini"),
        (["train", "dlrm.debug", "--task.slices", "price"], "task.slices names 'price'"),
        (["eval", "/no/such/run"], "/no/such/run"),
        (["data", "get", "ml-1m"], "no data set 'ml-1m'"),
        (["data", "check", "/no/such/log"], "/no/such/log"),
        (["data", "make", "stream.huge"], "nothing to make is called 'stream.huge'"),
        (["bench", "nothing"], "nothing"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments, message, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, error = status_and_error(capsys, *arguments)
    assert status == 2
    assert error.startswith("cuesta: ")
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_that_exists_is_kept(capsys, tmp_path) -> None:
    kept = tmp_path / "run" / "precious.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    for extra in ([], ["--overwrite"], ["--resume"]):
        status, error = status_and_error(
            capsys, "train", "dlrm.debug", "--out", str(kept.parent), *extra
        )
        assert status == 2
        assert str(kept.parent) in error
    assert kept.read_text() == "mine"


def test_data_check_names_what_is_wrong(capsys, tmp_path) -> None:
    folder = tmp_path / "log"
    with pytest.raises(SystemExit):
        main(["data", "make", "stream.mini", "--out", str(folder)])
    assert "Bayes NE" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        main(["data", "check", str(folder)])
    assert exit_.value.code == 0
    capsys.readouterr()
    file = folder / "stream.parquet"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(SystemExit) as exit_:
        main(["data", "check", str(folder)])
    assert exit_.value.code == 2
    assert str(file) in capsys.readouterr().out


def test_killed_at_any_moment_and_resumed_the_losses_are_those_of_the_unbroken_run(
    capsys, tmp_path
) -> None:
    settings = ["--loop.checkpoint-every", "7", "--loop.evaluate-every", "20", "--out"]
    train = ["train", "dlrm.debug", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)  # as many as there
    finished(capsys, *train, str(tmp_path / "whole"))
    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "cuesta.cli.main", *train, str(broken)]
    losses = broken / "losses.jsonl"
    for goal in (3, 17):
        process = subprocess.Popen(
            [*command, "--resume"] if losses.exists() else command, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and num_lines(losses) < goal:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    result = json.loads(finished(capsys, *train, str(broken), "--resume", "--json"))
    assert losses.read_bytes() == (tmp_path / "whole" / "losses.jsonl").read_bytes()
    assert Path(result["report"]).exists()
    assert json.loads(finished(capsys, "eval", str(broken), "--json")) == result["test"]
    torch.set_num_threads(2)


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_folder_that_cannot_be_made_is_named(capsys, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in ("/proc/nowhere/run", str(tmp_path / "file" / "run")):
        status, error = status_and_error(capsys, "train", "dlrm.debug", "--out", out)
        assert status == 2
        assert "choose another" in error.splitlines()[-1]

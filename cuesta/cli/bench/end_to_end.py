"""`cuesta bench end_to_end`: whole tasks, each command in a process of its own as a user would give it.

mini: its worlds are made, reconstructed from their photographs, published, verified, loaded and judged.
sceaux-castle: photographs to a fused cloud in one command. 4K: depth within `--memory 4G`. There is no peer that does
as much; `asked` is the time or memory that we set ourselves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import DataLoader, Subset

from cuesta.cli.bench.depth_cases import real_data
from cuesta.cli.bench.harness import OURS, Findings, Settings, progress, refuse, sample_rows
from cuesta.data.clouds import read_cloud
from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.release import Framing, PairSet, open_release
from cuesta.data.scenes.scene import Scene
from cuesta.data.worlds.make import Size, make_landmarks

BENCH = "end_to_end"
ASKED = "asked"
MOST_SECONDS_MINI, MOST_SECONDS_SCEAUX = 600.0, 720.0
MEMORY = 4 << 30
_TINY = Size(num_scenes=1, num_images=4, width=160, height=120)
_4K = Size(num_scenes=1, num_images=5, width=3840, height=2160)
_LOADED, _LOADED_PX = 20, 448  # pairs, and the side of their pictures
_JUDGED = 100  # pairs of a scene
_LEAST_AUC = 50.0  # percent at 5 degrees, of a scene's poses: below, our answer is wrong


class Done(NamedTuple):
    """Hold the seconds of a command, its peak of resident memory in MiB, and what it printed."""

    seconds: float
    peak_mib: float
    printed: str


def measure(settings: Settings) -> Findings:
    """Run every task once; the quick one gives small pictures depth."""
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="cuesta-bench-") as temporary:
        scratch = Path(temporary)
        if settings.quick:
            _large_pictures(findings, scratch, _TINY, "debug")
            findings.note("not measured: mini and sceaux-castle (leave out --quick)")
            return findings
        _mini(findings, scratch)
        if (folder := real_data("sceaux-castle", findings)) is not None:
            _sceaux(findings, folder, scratch)
        _large_pictures(findings, scratch, _4K, "laptop")
    return findings


def run_command(*words: str, folder: Path) -> Done:
    """Run `cuesta WORDS` in a folder. Raises `RuntimeError` with the last line of one that fails."""
    progress(f"{BENCH}: cuesta {' '.join(words)}")
    arguments = [sys.executable, "-m", "cuesta.cli.main", *words]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.perf_counter()
        process = subprocess.Popen(arguments, cwd=folder, stdout=out, stderr=err)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            err.seek(0)
            lines = err.read().decode(errors="replace").strip().splitlines()
            last = lines[-1] if lines else f"ended with {process.returncode}"
            raise RuntimeError(f"cuesta {' '.join(words)}: {last}")
        out.seek(0)
        peak = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
        return Done(seconds, peak, out.read().decode())


def _mini(findings: Findings, scratch: Path) -> None:
    seconds: dict[str, float] = {}

    def run(step: str, *words: str) -> str:
        done = run_command(*words, folder=scratch)
        seconds[step] = seconds.get(step, 0.0) + done.seconds
        return done.printed

    run("make", "data", "make", "landmarks", "--size", "mini", "--out", "mini")
    worlds = sorted(path.parent for path in scratch.glob("mini/**/manifest.json"))
    (scratch / "photos").mkdir()
    for world in worlds:
        (scratch / "photos" / world.name).symlink_to(world / "frames")
    run("photos to clouds", "scenes", "photos", "--out", "scenes", "--workers", "2")
    test = worlds[-1].name
    run("publish", "publish", "scenes", "--out", "set", "--test", test, "--allow-leaks")
    run("verify", "data", "verify", "set")
    begin = time.perf_counter()
    num_loaded = _load(scratch / "set")
    seconds["load"] = time.perf_counter() - begin
    for world in worlds:
        words = ("--task", "scene-pose", "--against", str(world), "--json")
        judged = json.loads(run("judge", "eval", f"scenes/{world.name}", *words))
        score = next(row["auc_at_5"] for row in judged["rows"] if row["stratum"] == "all")
        findings.note(f"mini, {world.name}: poses have an AUC@5 of {score:.1f}")
        if not score >= _LEAST_AUC:
            refuse(BENCH, f"{world.name}: poses have an AUC@5 of {score:.1f}")
    limits = ("--features", "2048", "--limit", str(_JUDGED))
    run("judge", "eval", "set", "--task", "two-view", *limits)
    total = sum(seconds.values())
    steps = ", ".join(f"{step} {each:.0f} s" for step, each in seconds.items())
    findings.note(f"mini: {steps}; {num_loaded} pairs loaded, {_JUDGED} of each scene judged")
    _judge(findings, "mini, end to end", total, MOST_SECONDS_MINI, "s")


def _load(dataset: Path) -> int:
    """Load pairs of the training split in batches; return how many."""
    pairs = PairSet(open_release(dataset, "train"), Framing(side=_LOADED_PX))
    some = Subset(pairs, range(min(_LOADED, len(pairs))))
    return sum(len(batch.scene) for batch in DataLoader(some, batch_size=4))


def _sceaux(findings: Findings, folder: Path, scratch: Path) -> None:
    (scratch / "real").mkdir()
    (scratch / "real" / folder.name).symlink_to(folder.resolve())
    words = ("scenes", "real", "--out", "clouds", "--with", "depth=--max-image-size 1600")
    done = run_command(*words, folder=scratch)
    num_points = len(read_cloud(scratch / "clouds" / folder.name / "fused.ply").positions)
    findings.note(
        f"sceaux-castle: {num_points:,} points fused of {len(list(folder.glob('*.JPG')))} photographs"
    )
    _judge(findings, "sceaux-castle, photographs to cloud", done.seconds, MOST_SECONDS_SCEAUX, "s")


def _large_pictures(findings: Findings, scratch: Path, size: Size, recipe: str) -> None:
    (world,) = make_landmarks(scratch / "large", size)
    case = f"{size.num_images} pictures of {size.width} x {size.height}"
    words = ("--recipe", recipe, "--memory", f"{MEMORY >> 30}G")
    done = run_command("depth", str(world.root), "--out", "deep", *words, folder=scratch)
    scene = Scene(scratch / "deep")
    names = read_colmap(scene.model).names
    num_made = sum(scene.depth_map(name).is_file() for name in names)
    if num_made < len(names):
        refuse(BENCH, f"{case}: {num_made} of {len(names)} have depth")
    findings.note(f"{case}: {done.seconds / len(names):.1f} s a picture, start and files included")
    _judge(findings, f"{case}, peak memory under --memory 4G", done.peak_mib, MEMORY / 2**20, "MiB")


def _judge(findings: Findings, case: str, value: float, most: float, unit: str) -> None:
    findings.rows += sample_rows(case, {OURS: [value], ASKED: [most]}, unit)
    findings.note(
        f"bar {'met' if value <= most else 'MISSED'}: {case} {value:.0f} {unit}, asked {most:.0f}"
    )

"""`cuesta scenes FOLDER`: every folder of photos in a folder, and every scene, through the steps from
photos to a fused cloud; several at a time, on this machine or over Ray.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cuesta.engine.progress import clock
from cuesta.errors import UserError

if TYPE_CHECKING:
    from cuesta.vision.terrasky3d.fleet import Job, JobResult, Progress, Step

STEPS = ("reconstruct", "depth", "masks", "fuse")
RECORD = "scenes.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `cuesta scenes` takes."""
    parser.add_argument("folder", help="holds a folder of photos, or a scene, for each scene")
    parser.add_argument("--out", default="scenes", help="folder of the scenes made (%(default)s)")
    parser.add_argument(
        "--steps", default=",".join(STEPS), help="verbs of cuesta, in this order (%(default)s)"
    )
    parser.add_argument(
        "--with",
        dest="more",
        metavar="STEP=FLAGS",
        action="append",
        default=[],
        help="flags of a step: --with reconstruct='--recipe paper'; may be given for each step",
    )
    parser.add_argument("--workers", type=int, default=1, help="scenes at a time (%(default)s)")
    parser.add_argument(
        "--ray", action="store_true", help="run on Ray: RAY_ADDRESS, or this machine"
    )


def scenes(options: argparse.Namespace) -> int:
    """Run all scenes and print how each ended; the status is 1 where one failed."""
    from cuesta.vision.terrasky3d.fleet import run_scenes

    if options.workers < 1:
        raise UserError(f"--workers must be at least 1, got {options.workers}")
    out = Path(options.out)
    steps = steps_of(options.steps)
    jobs = jobs_of(Path(options.folder), out, steps, flags_of(options.more, steps))
    record = out / RECORD
    backend: Literal["local", "ray"] = "ray" if options.ray else "local"
    results = run_scenes(jobs, record, workers=options.workers, backend=backend, on_progress=show)
    if options.json:
        print(record.read_text(encoding="utf-8"), end="")
    else:
        for result in results:
            print(line_of(result))
        print(f"results: {record.resolve()}")
    return 0 if all(result.is_done for result in results) else 1


def steps_of(text: str) -> tuple[str, ...]:
    """Return the steps that a list with commas names. Raises `UserError` for one that is none."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in STEPS:
            raise UserError(f"--steps: no step {name!r}; choose of {', '.join(STEPS)}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"--steps {text!r}: name each step once, of {', '.join(STEPS)}")
    return names


def flags_of(texts: Sequence[str], steps: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the flags of each step from words like `depth=--memory 4G`. Raises `UserError`."""
    flags: dict[str, tuple[str, ...]] = {}
    for text in texts:
        step, equals, words = text.partition("=")
        if not equals or step not in steps:
            raise UserError(f"--with {text!r}: write STEP='FLAGS', STEP one of {', '.join(steps)}")
        try:
            flags[step] = (*flags.get(step, ()), *shlex.split(words))
        except ValueError as error:
            raise UserError(f"--with {text!r}: {error}; write STEP='FLAGS'") from error
    return flags


def jobs_of(
    folder: Path, out: Path, steps: Sequence[str], flags: Mapping[str, Sequence[str]]
) -> list[Job]:
    """Return a job for each folder in `folder`, by name: of photos into `out / name`, or of a scene.

    A scene (it has a manifest) is worked on where it is, and is not reconstructed. Raises `UserError`
    where `folder` holds none.
    """
    from cuesta.vision.terrasky3d.fleet import Job

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one with a folder for each scene")
    places = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    places = [place for place in places if place.resolve() != out.resolve()]
    if not places:
        raise UserError(f"{folder}: no folder in it; give each scene one with its photos")
    jobs = []
    for place in places:
        is_scene = (place / "manifest.json").is_file()
        scene = place if is_scene else out / place.name
        chosen = [step for step in steps if not (is_scene and step == "reconstruct")]
        if not chosen:
            continue
        mark = _facts_of(place, is_scene=is_scene)
        made = tuple(_step(step, place, scene, flags.get(step, ()), mark) for step in chosen)
        jobs.append(Job(scene=place.name, steps=made))
    if not jobs:
        raise UserError(
            f"{folder}: all in it are scenes already; name other --steps than reconstruct"
        )
    return jobs


def line_of(result: JobResult) -> str:
    """Return how a scene ended, in one line."""
    seconds = sum(step.seconds for step in result.steps)
    for step in result.steps:
        if step.status == "failed":
            status = step.exit_status or 0
            how = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
            times = f", {step.attempts} attempts" if step.attempts > 1 else ""
            return f"{result.scene}: {step.name} failed ({how}{times}): {step.last_line}"
    return f"{result.scene}: done in {clock(seconds)}"


def show(progress: Progress) -> None:
    """Print a line when a step begins or ends."""
    words = "begins"
    if progress.result is not None:
        words = f"{progress.result.status} in {clock(progress.result.seconds)}"
    left = "" if progress.remaining_s is None else f" · {clock(progress.remaining_s)} left"
    count = f"{progress.num_ended}/{progress.num_steps} steps{left}"
    print(f"{progress.scene} {progress.step} {words} · {count}", file=sys.stderr, flush=True)


def _step(step: str, place: Path, scene: Path, flags: Sequence[str], mark: str) -> Step:
    from cuesta.vision.terrasky3d.fleet import Step

    cuesta = (sys.executable, "-m", "cuesta.cli.main", step)
    named = (str(place), "--out", str(scene)) if step == "reconstruct" else (str(scene),)
    return Step(
        name=step,
        arguments=(*cuesta, *named, *flags),
        mark=mark,
        makes=scene / "manifest.json",
    )


def _facts_of(place: Path, *, is_scene: bool) -> str:
    """Return a fingerprint of the photos in a folder, or of the model of a scene."""
    from cuesta.vision.terrasky3d.stages import fingerprint

    top = place / "colmap" if is_scene else place
    facts = []
    for file in sorted(top.rglob("*")):
        if file.is_file():
            about = file.stat()
            facts.append([file.relative_to(top).as_posix(), about.st_size, about.st_mtime_ns])
    return fingerprint(facts)

"""The verbs publish, data verify and data export: arguments, and what they print."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cuesta.cli.stages import show_stages

FORMS = ("colmap", "nerfstudio", "mvsnet", "megadepth")
MASKS = ("available", "geometric", "semantic", "both", "none")
_SAID = {
    "name": "what the data set is called (its folder's name)",
    "description": "what it shows, in a sentence",
    "licence": "under which terms it may be used",
    "creator": "who publishes it",
    "consent": "people shown, freedom of panorama: what was agreed",
    "privacy": "what was done about faces and number plates",
    "citation": "how to cite it",
}


def add_publish_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cuesta publish`."""
    parser.add_argument("scenes", nargs="+", help="folders of scenes, or a folder that holds them")
    parser.add_argument("--out", required=True, help="folder of the data set; goes on where it was")
    parser.add_argument(
        "--test", nargs="+", default=[], metavar="SCENE", help="scenes for testing (none)"
    )
    for name, words in _SAID.items():
        parser.add_argument(f"--{name}", help=words)
    parser.add_argument(
        "--depth",
        choices=("float32", "float16"),
        default="float32",
        help="how depth is stored; float16 is smaller, its error is recorded (%(default)s)",
    )
    parser.add_argument("--no-archives", action="store_true", help="no .tar of each scene")
    parser.add_argument(
        "--allow-leaks", action="store_true", help="publish although train and test show one place"
    )


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cuesta data verify`."""
    parser.add_argument("data_set", help="a folder that `cuesta publish` made")


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cuesta data export`."""
    parser.add_argument("data_set", help="a folder that `cuesta publish` made")
    parser.add_argument("--form", choices=FORMS, required=True, help="the form to write")
    parser.add_argument("--out", required=True, help="folder; what is there is not made again")
    parser.add_argument(
        "--masks",
        choices=MASKS,
        default="available",
        help="which are applied to depth (%(default)s)",
    )


def publish(options: argparse.Namespace) -> int:
    """Publish scenes and print what the data set holds."""
    from cuesta.vision.terrasky3d.datasheet import Statement
    from cuesta.vision.terrasky3d.publish import publish as run
    from cuesta.vision.terrasky3d.publish_scene import PublishSettings

    said = {name: value for name in _SAID if (value := getattr(options, name)) is not None}
    settings = PublishSettings(
        test=tuple(options.test),
        statement=Statement(**{"name": Path(options.out).resolve().name, **said}),
        depth=options.depth,
        has_archives=not options.no_archives,
        allows_leaks=options.allow_leaks,
    )
    with show_stages(sys.stderr) as on_progress:
        made = run(options.scenes, options.out, settings, on_progress=on_progress)
    scenes = made.manifest["scenes"]
    if options.json:
        about = {"data_set": str(made.root), "made_now": list(made.fresh), "scenes": scenes}
        print(json.dumps(about, indent=1))
        return 0
    assert isinstance(scenes, dict)
    for name, facts in scenes.items():
        assert isinstance(facts, dict)
        counts = f"{facts['num_images']} images, {facts['num_pairs']} pairs"
        print(f"{name}: {facts['split']}, {counts} by {facts['view_graph']}")
    print(f"data set: {made.root.resolve()}")
    print(f"datasheet: {(made.root / 'datasheet.md').resolve()}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Print everything that is wrong with a data set; the status is 1 if there is anything."""
    from cuesta.vision.terrasky3d.verify import verify as run

    with show_stages(sys.stderr) as on_progress:
        found = run(options.data_set, on_progress=on_progress)
    if options.json:
        findings = [finding._asdict() for finding in found.findings]
        print(json.dumps({**found._asdict(), "findings": findings}, indent=1))
    else:
        for finding in found.findings:
            print(f"{finding.kind}: {finding.where}: {finding.what}")
        if not found.findings:
            counts = (
                f"{found.num_scenes} scenes, {found.num_images} images, {found.num_files} files"
            )
            print(f"{options.data_set}: nothing is wrong ({counts})")
    return 1 if found.findings else 0


def export(options: argparse.Namespace) -> int:
    """Write a data set in another form and print the folders."""
    from cuesta.data.scenes.exports import export as run

    with show_stages(sys.stderr) as on_progress:
        made = run(
            options.data_set,
            options.out,
            options.form,
            masks=options.masks,
            on_progress=on_progress,
        )
    folders = [str(folder) for folder in made]
    print(json.dumps({"scenes": folders}, indent=1) if options.json else "\n".join(folders))
    return 0

"""The verbs of the vision wing: reconstruct and view."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from cuesta.cli.stages import show_stages
from cuesta.cli.verbs import print_settings

if TYPE_CHECKING:
    from cuesta.vision.terrasky3d.pipeline import Reconstruction
    from cuesta.vision.terrasky3d.settings import Settings


def reconstruct(options: argparse.Namespace) -> int:
    """Make a scene of photos and print the verdict; the status is 1 where it is poor."""
    settings = _settings(options)
    if options.help:
        options.reconstruct_parser.print_help()
        print_settings(settings)
        return 0
    if options.photos is None:
        options.reconstruct_parser.error("name a folder of photos or a video")
    from cuesta.vision.terrasky3d.pipeline import reconstruct as run

    photos = Path(options.photos)
    out = Path(options.out) if options.out else Path("scenes") / _name_of(photos.resolve())
    with show_stages(sys.stderr) as on_progress:
        result = run(photos, out, settings, on_progress=on_progress)
    if options.json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        print_verdict(result)
    return 1 if result.grade == "poor" else 0


def _name_of(photos: Path) -> str:
    """Return what to call a scene of these photos: `castle` also of `castle/images`."""
    own = photos.stem if photos.is_file() else photos.name
    is_usual = own.lower() in ("images", "photos", "frames", "input", "dcim", "jpg")
    return photos.parent.name if is_usual and photos.parent.name else own


def demo_scene(
    folder: Path, *, num_images: int = 16, width: int = 640, height: int = 480
) -> tuple[Reconstruction, dict[str, float]]:
    """Return a scene rebuilt from generated photos of a landmark, and how right its cameras are."""
    from cuesta.data.scenes.colmap import read_colmap
    from cuesta.data.worlds.make import Size, make_landmarks
    from cuesta.vision.terrasky3d.pipeline import reconstruct as run
    from cuesta.vision.terrasky3d.pose_errors import auc, pair_errors
    from cuesta.vision.terrasky3d.recipes import laptop

    shutil.rmtree(folder, ignore_errors=True)
    size = Size(num_scenes=1, num_images=num_images, width=width, height=height)
    with show_stages(sys.stderr) as on_progress:
        truth = make_landmarks(
            folder / "photos",
            size,
            on_progress=lambda done, total, _: on_progress("photos", done, total),
        )[0]
        result = run(truth.frames, folder / "scene", laptop(), on_progress=on_progress)
    errors = pair_errors(result.as_taken(), read_colmap(truth.model))
    return result, {"auc_at_5_deg": 100 * auc(errors, 5.0)}


def view(options: argparse.Namespace) -> int:
    """Serve a scene or cloud to the browser until Ctrl-C."""
    from cuesta.cli.viewer import start_viewer

    server = start_viewer(options.path, host=options.host, port=options.port)
    address = f"http://{options.host}:{server.get_port()}"
    print(f"{options.path} at {address} (Ctrl-C ends it)", flush=True)
    if not options.no_browser:
        webbrowser.open(address)
    try:
        while True:
            time.sleep(3600)
    finally:
        server.stop()


def print_verdict(result: Reconstruction) -> None:
    """Print the grade, what was missed, what is not in the scene, and where the report is."""
    about = result.to_json()
    print(
        f"{result.grade}: {about['num_images']} images, {about['num_points']:,} points, "
        f"{about['mean_reprojection_px']:.2f} px mean reprojection error"
    )
    for gate in result.gates:
        if not gate.is_met:
            print(f"  {gate.name}: {gate.value}, should be {gate.limit}; {gate.remedy}")
    for item in result.excluded:
        print(f"  left out: {item.name}: {item.reason}")
    for note in result.notes:
        print(f"  note: {note}")
    print(f"scene: {result.scene.root.resolve()}")
    print(f"report: {result.scene.report.resolve()}")


def _settings(options: argparse.Namespace) -> Settings:
    from cuesta.engine.override import override
    from cuesta.vision.terrasky3d import recipes

    settings: Settings = getattr(recipes, options.recipe)()
    return override(settings, options.settings)

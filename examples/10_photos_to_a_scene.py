"""Chapter 10: photos to a posed scene, judged against the truth.

Run it with `python examples/10_photos_to_a_scene.py [PHOTOS]`; without a folder of your own it makes
twelve photos of a building that exists only here, so that it can also tell how right the result is.
It takes some twenty seconds and needs no network. The command line does the same: `cuesta
reconstruct PHOTOS`, then `cuesta view scenes/PHOTOS`.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from cuesta.data.clouds import write_cloud
from cuesta.data.scenes.colmap import cloud_of, read_colmap, read_reconstruction
from cuesta.data.scenes.scene import Scene, verify_scene
from cuesta.data.scenes.transforms_json import write_transforms_json
from cuesta.data.scenes.views import Views
from cuesta.data.worlds.make import Size, make_landmarks
from cuesta.vision.terrasky3d.pipeline import Reconstruction, reconstruct
from cuesta.vision.terrasky3d.pose_errors import auc, pair_errors
from cuesta.vision.terrasky3d.recipes import laptop


def take_photos(folder: Path) -> Scene:
    """Build a landmark from a seed and walk around it; the scene holds what is true of it."""
    size = Size(num_scenes=1, num_images=12, width=480, height=360)
    return make_landmarks(folder, size, seed=0)[0]


def rebuild(photos: Path, out: Path) -> Reconstruction:
    """Find cameras and points; a second call with the same settings has nothing left to do."""
    features = replace(laptop().features, max_num_features=4096)
    settings = replace(laptop(), features=features)

    def show(stage: str, done: int, total: int) -> None:
        if done == total > 0:
            print(f"{stage}: {total} done", flush=True)

    return reconstruct(photos, out, settings, on_progress=show)


def read_the_verdict(result: Reconstruction) -> None:
    """Say how good it is, and what is not in it: the same stands in verdict.json and the report."""
    print(f"{result.grade}: {len(result.images)} images placed; report: {result.scene.report}")
    for gate in result.gates:
        print(f"  {gate.name}: {gate.value} ({gate.limit})")
    for item in result.excluded:
        print(f"  left out: {item.name}: {item.reason}")


def use_the_scene(scene: Scene) -> None:
    """Take cameras as tensors, project a point, and hand the scene to other tools."""
    verify_scene(scene.root)
    views = read_colmap(scene.model)
    cloud = cloud_of(read_reconstruction(scene.model))
    name = views.names[0]
    points = views.pose(name) @ torch.from_numpy(cloud.positions)
    pixels = views.camera(name).project(points[points[:, 2] > 0])
    print(f"{len(cloud)} points; {len(pixels)} are in front of {name}")
    write_transforms_json(scene.root / "work" / "transforms.json", views)
    write_cloud(scene.root / "work" / "points.ply", cloud)


def compare_with_the_truth(result: Reconstruction, truth: Views) -> None:
    """Compare all pairs of cameras: the gauge of a reconstruction is free, relative poses are not."""
    errors = pair_errors(result.as_taken(), truth)
    print(f"AUC@5 degrees: {100 * auc(errors, 5.0):.1f} of 100 over {len(errors)} pairs")


def main() -> None:
    """Rebuild the photos of a folder, or of a place made for this."""
    with tempfile.TemporaryDirectory(prefix="cuesta-example-") as temporary:
        folder = Path(temporary)
        made = None if len(sys.argv) > 1 else take_photos(folder / "photos")
        photos = made.frames if made else Path(sys.argv[1])
        result = rebuild(photos, folder / "scene")
        read_the_verdict(result)
        use_the_scene(result.scene)
        if made:
            compare_with_the_truth(result, read_colmap(made.model))


if __name__ == "__main__":
    main()

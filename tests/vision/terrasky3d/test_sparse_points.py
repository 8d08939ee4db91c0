"""Points come with who sees them: from a model's tracks, else triangulated once with the poses as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from cuesta.data.scenes.colmap import read_colmap, read_reconstruction, write_reconstruction
from cuesta.data.scenes.scene import Scene
from cuesta.vision.terrasky3d.sparse_points import SparsePoints, points_of, sparse_points
from tests.vision.terrasky3d.dense_place import copied, make_posed, times


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Scene]:
    return make_posed(tmp_path_factory.mktemp("places"))


@pytest.fixture(scope="module")
def found(places: tuple[Scene, Scene]) -> SparsePoints:
    return find(places[1])


def find(scene: Scene, seed: int = 0) -> SparsePoints:
    return sparse_points(
        scene, read_colmap(scene.model), seed=seed, on_progress=lambda _done, _total: None
    )


def test_triangulated_points_lie_on_the_truth(
    places: tuple[Scene, Scene], found: SparsePoints
) -> None:
    from cuesta.data.maps import read_map

    views = read_colmap(places[1].model)
    errors = []
    for name, seen in found.seen.items():
        pose, camera = views.pose(name), views.camera(name)
        inside = found.positions[seen] @ pose.rotation.numpy().T + pose.translation.numpy()
        assert inside[:, 2].min() > 0
        pixels = (inside / inside[:, 2:]) @ camera.matrix().numpy().T
        assert (pixels[:, :2] > -3).all()
        assert (pixels[:, :2] < np.array([camera.width, camera.height]) + 3).all()
        columns = np.clip(pixels[:, 0].astype(int), 0, camera.width - 1)
        rows = np.clip(pixels[:, 1].astype(int), 0, camera.height - 1)
        truth = read_map(places[0].depth_map(name))[rows, columns]
        errors.append(np.abs(truth / inside[:, 2] - 1)[truth > 0])
    assert np.median(np.concatenate(errors)) < 0.01
    assert set(found.seen) == set(views.names)
    assert all(len(seen) >= 5 for seen in found.seen.values())


def test_they_are_found_once(places: tuple[Scene, Scene], found: SparsePoints) -> None:
    before = times(places[1])
    again = find(places[1])
    assert times(places[1]) == before
    assert np.array_equal(again.positions, found.positions)


@pytest.mark.usefixtures("found")
def test_poses_are_left_as_they_are(places: tuple[Scene, Scene]) -> None:
    given = read_colmap(places[1].model)
    kept = read_colmap(places[1].work / "points" / "model")
    np.testing.assert_allclose(
        kept.cam_from_world.matrix(), given.select(kept.names).cam_from_world.matrix(), atol=1e-9
    )


def test_a_model_with_tracks_is_taken_as_it_is(
    places: tuple[Scene, Scene], found: SparsePoints, tmp_path: Path
) -> None:
    scene = copied(places[1], tmp_path / "scene")
    model = read_reconstruction(scene.work / "points" / "model")
    for file in scene.model.iterdir():
        file.unlink()
    scene.model.rmdir()
    write_reconstruction(scene.model, model)
    (scene.work / "points").rename(tmp_path / "points")
    again = find(scene, seed=9)
    assert np.array_equal(again.positions, found.positions)
    assert {name: seen.tolist() for name, seen in again.seen.items()} == {
        name: seen.tolist() for name, seen in found.seen.items()
    }
    assert not (scene.work / "points").exists()


def test_points_of_a_model_are_those_of_its_tracks(places: tuple[Scene, Scene]) -> None:
    model = read_reconstruction(places[1].model)
    images = sorted(model.images)[:2]
    for image_id in images:
        model.image(image_id).points2D = pycolmap.Point2DList(
            [pycolmap.Point2D(np.array([k, k])) for k in range(3)]
        )
    for place, ends in enumerate(([0, 1], [0, 1], [0])):
        track = pycolmap.Track()
        for end in ends:
            track.add_element(images[end], place)
        model.add_point3D(np.array([place, 0.0, 1.0]), track)
    points = points_of(model)
    known = len(points.positions) - 3
    assert points.positions[known:, 0].tolist() == [0.0, 1.0, 2.0]
    seen = [points.seen[model.image(image_id).name].tolist() for image_id in images]
    assert seen == [[known, known + 1, known + 2], [known, known + 1]]

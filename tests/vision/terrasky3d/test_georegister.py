"""Models come to metres by GPS or a known distance; what contradicts is told, the model is kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from cuesta.data.scenes.colmap import read_reconstruction
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.georegister import georegister
from cuesta.vision.terrasky3d.settings import ScaleSettings
from tests.vision.terrasky3d.synthetic import located, synthesize

METRES_A_UNIT = 20.0
ORIGIN = (47.07, 15.44, 353.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Return the folder of a model, and the true centres of its images in metres."""
    folder = tmp_path_factory.mktemp("model")
    truth = synthesize()
    truth.write(folder)
    return folder, {i.name: METRES_A_UNIT * i.projection_center() for i in truth.images.values()}


def gps_of(metres: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Return latitude, longitude and altitude of places east, north and up of the origin."""
    transform = pycolmap.GPSTransform()
    return {
        name: transform.enu_to_ellipsoid(place[None], *ORIGIN)[0].tolist()
        for name, place in metres.items()
    }


def run(
    folder: Path, out: Path, photos: list[dict[str, Any]], settings: ScaleSettings | None = None
) -> dict[str, Any]:
    out.mkdir()
    return georegister(folder, out, photos, settings or ScaleSettings(), 0, lambda *_: None)


def test_gps_gives_metres_and_the_model_is_kept(model: Any, tmp_path: Path) -> None:
    folder, metres = model
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    photos = located(read_reconstruction(folder), gps_of(metres))
    result = run(folder, tmp_path / "out", photos)
    assert (result["source"], result["num_used"]) == ("gps", 10)
    assert result["rmse_m"] < 1e-3
    scale = np.cbrt(np.linalg.det(np.array(result["metres_from_model"])[:3, :3]))
    assert abs(scale / METRES_A_UNIT - 1) < 1e-4  # the earth is curved
    moved = read_reconstruction(tmp_path / "out" / "model")
    latitude, longitude, _ = result["origin"]
    assert abs(latitude - ORIGIN[0]) < 0.001
    assert abs(longitude - ORIGIN[1]) < 0.001
    enu = np.array([moved.find_image_with_name(name).projection_center() for name in metres])
    true = np.array(list(metres.values()))
    assert np.abs((enu - enu.mean(0)) - (true - true.mean(0))).max() < 0.01
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_gps_that_lies_is_left_out_and_told(model: Any, tmp_path: Path) -> None:
    folder, metres = model
    liar = sorted(metres)[4]
    wrong = metres | {liar: metres[liar] + np.array([300.0, 0.0, 0.0])}
    result = run(folder, tmp_path / "out", located(read_reconstruction(folder), gps_of(wrong)))
    assert result["num_used"] == 9
    assert result["rmse_m"] < 1e-3
    assert [note for note in result["notes"] if note.startswith(f"GPS of {liar} is 300 m")]


def test_the_first_photo_may_lie(model: Any, tmp_path: Path) -> None:
    folder, metres = model
    places = gps_of(metres)
    places[sorted(metres)[0]] = [-33.9, 151.2, 20.0]
    result = run(folder, tmp_path / "out", located(read_reconstruction(folder), places))
    assert result["num_used"] == 9
    assert abs(result["origin"][0] - ORIGIN[0]) < 0.001


def test_places_along_a_line_take_up_from_the_cameras(tmp_path: Path) -> None:
    truth = synthesize(num_images=4)
    names = sorted(image.name for image in truth.images.values())
    generator = np.random.default_rng(0)
    for number, name in enumerate(names):  # level cameras, 2 units apart along x, looking along y
        turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        centre = np.array([2.0 * number, 0.0, 0.0])
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(turn), -turn @ centre)
        image = truth.find_image_with_name(name)
        truth.frame(image.frame_id).set_cam_from_world(image.camera_id, pose)
    (tmp_path / "model").mkdir()
    truth.write(tmp_path / "model")
    metres = {
        name: np.array([0.0, 20.0 * number, 0.0]) + generator.normal(size=3)
        for number, name in enumerate(names)
    }
    result = run(tmp_path / "model", tmp_path / "out", located(truth, gps_of(metres)))
    assert "along a line" in " ".join(result["notes"])
    matrix = np.array(result["metres_from_model"])
    assert matrix[:3, :3] @ [0, 0, 1] == pytest.approx(
        [0, 0, np.cbrt(np.linalg.det(matrix[:3, :3]))]
    )
    assert matrix[:3, :3] @ [2.0, 0, 0] == pytest.approx([0, 20, 0], abs=1.5)


def test_coarse_gps_is_told(model: Any, tmp_path: Path) -> None:
    folder, metres = model
    generator = np.random.default_rng(0)
    small = {
        name: place / METRES_A_UNIT * 0.5 + generator.normal(size=3)
        for name, place in metres.items()
    }
    result = run(folder, tmp_path / "out", located(read_reconstruction(folder), gps_of(small)))
    assert "rough guess" in " ".join(result["notes"])


@pytest.mark.parametrize(("count", "words"), [(0, "no photo says"), (2, "three are needed")])
def test_without_gps_lengths_have_no_unit(
    count: int, words: str, model: Any, tmp_path: Path
) -> None:
    folder, metres = model
    gps = gps_of({name: metres[name] for name in sorted(metres)[:count]})
    result = run(folder, tmp_path / "out", located(read_reconstruction(folder), gps))
    assert result["source"] is None
    assert words in result["notes"][0]
    assert not (tmp_path / "out" / "model").exists()


def test_a_known_distance_gives_the_scale(model: Any, tmp_path: Path) -> None:
    folder, metres = model
    first, second = sorted(metres)[1], sorted(metres)[7]
    apart = float(np.linalg.norm(metres[first] - metres[second]))
    settings = ScaleSettings(first=first, second=second, metres=apart)
    result = run(folder, tmp_path / "out", located(read_reconstruction(folder), {}), settings)
    assert result["source"] == "known distance"
    moved = read_reconstruction(tmp_path / "out" / "model")
    centres = [moved.find_image_with_name(name).projection_center() for name in (first, second)]
    assert np.linalg.norm(centres[0] - centres[1]) == pytest.approx(apart)


def test_a_distance_to_a_photo_that_is_not_there_is_refused(model: Any, tmp_path: Path) -> None:
    folder, metres = model
    settings = ScaleSettings(first=sorted(metres)[0], second="other.jpg", metres=1.0)
    with pytest.raises(UserError, match=r"scale: 'other\.jpg' is not among the placed photos"):
        run(folder, tmp_path / "out", located(read_reconstruction(folder), {}), settings)


def test_half_a_distance_is_refused() -> None:
    with pytest.raises(UserError, match=r"scale\.first, scale\.second and scale\.metres"):
        ScaleSettings(metres=2.0).check()

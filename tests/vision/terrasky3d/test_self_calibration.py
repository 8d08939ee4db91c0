"""Principal points are fitted where the photos determine them, and left alone where they do not."""

import pycolmap

from cuesta.vision.terrasky3d.self_calibration import self_calibrate
from tests.vision.terrasky3d.synthetic import cameras_of, synthesize

TRUE = (1280.0, 520.0, 379.0, 0.05)
MIDDLE = [1280.0, 512.0, 384.0, 0.05]


def with_middle(model: pycolmap.Reconstruction) -> pycolmap.Reconstruction:
    """Put the principal points of a true model into the middle, as mapping does."""
    for camera in model.cameras.values():
        camera.params = MIDDLE
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    pycolmap.bundle_adjustment(model, options)
    return model


def test_a_principal_point_comes_back_with_its_deviation() -> None:
    model = with_middle(synthesize(num_images=20, params=TRUE))
    fitted, deviations = self_calibrate(model, cameras_of(model))
    params, sigma = fitted.cameras[1].params, deviations["cam_0"]
    for found, true, deviation in zip(params, TRUE, sigma, strict=True):
        assert abs(found - true) < 4 * deviation
    assert max(sigma[1:3]) < 2


def test_fixed_cameras_stay() -> None:
    model = with_middle(synthesize(num_images=20, params=TRUE))
    before = model.cameras[1].params.tolist()
    fitted, deviations = self_calibrate(model, cameras_of(model, is_fixed=True))
    assert fitted.cameras[1].params.tolist() == before
    assert deviations == {}


def test_a_principal_point_that_may_as_well_be_in_the_middle_stays_there() -> None:
    model = with_middle(synthesize(num_images=8, params=tuple(MIDDLE), noise_px=0.5))
    fitted, deviations = self_calibrate(model, cameras_of(model))
    assert fitted.cameras[1].params.tolist()[1:3] == MIDDLE[1:3]
    assert deviations == {}


def test_few_images_or_poor_ones_leave_the_model_as_it_was() -> None:
    few = with_middle(synthesize(num_images=4, params=TRUE, noise_px=0.02))
    assert self_calibrate(few, cameras_of(few)) == (few, {})
    poor = with_middle(synthesize(num_images=8, params=TRUE, noise_px=2.0))
    before = poor.cameras[1].params.tolist()
    kept, deviations = self_calibrate(poor, cameras_of(poor))
    assert kept.cameras[1].params.tolist() == before
    assert deviations == {}

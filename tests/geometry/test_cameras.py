"""Camera: equal to pycolmap's models, project and unproject inverse to each other, derivatives."""

import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cuesta.geometry import MODELS, Camera
from tests.laws import seeds

PARAMS = {
    "PINHOLE": [500.0, 510.0, 320.5, 239.0],
    "SIMPLE_RADIAL": [500.0, 320.5, 239.0, -0.1],
    "RADIAL": [500.0, 320.5, 239.0, -0.1, 0.05],
    "OPENCV": [500.0, 510.0, 320.5, 239.0, -0.1, 0.05, 0.01, -0.02],
    "OPENCV_FISHEYE": [300.0, 310.0, 320.5, 239.0, -0.05, 0.02, 0.003, -0.001],
}
every_model = pytest.mark.parametrize("model", MODELS)
models = st.sampled_from(list(MODELS))


def make(model: str, dtype: torch.dtype = torch.float64) -> Camera:
    return Camera(model, torch.tensor(PARAMS[model], dtype=dtype), 640, 480)


def in_front(seed: int = 0, num: int = 50) -> Tensor:
    """Return points [num, 3] whose pixels are in the image or around it."""
    generator = torch.Generator().manual_seed(seed)
    point = torch.rand(num, 3, generator=generator, dtype=torch.float64) * 2 - 1
    depth = point[:, 2:].exp()
    return torch.cat([point[:, :2] * torch.tensor([0.7, 0.5]) * depth, depth], 1)


@every_model
def test_pixels_are_those_of_pycolmap(model: str) -> None:
    camera, points = make(model), in_front()
    theirs = pycolmap.Camera(model=model, width=640, height=480, params=PARAMS[model])
    pixels = camera.project(points)
    expected = torch.from_numpy(np.array(theirs.img_from_cam(points.numpy())))
    assert float((pixels - expected).abs().max()) <= 1e-9
    rays = torch.from_numpy(np.array(theirs.cam_from_img(pixels.numpy())))
    assert float((camera.unproject(pixels)[:, :2] - rays).abs().max()) <= 1e-9
    assert_close(camera.matrix(), torch.from_numpy(theirs.calibration_matrix()))


@every_model
def test_parameters_have_the_order_of_pycolmap(model: str) -> None:
    theirs = pycolmap.Camera(model=model, width=640, height=480, params=PARAMS[model])
    assert theirs.params_info.replace(" ", "").split(",") == list(MODELS[model])


@given(model=models, seed=seeds)
def test_a_pixel_times_its_depth_is_the_point(model: str, seed: int) -> None:
    camera, points = make(model), in_front(seed)
    assert_close(camera.unproject(camera.project(points)) * points[:, 2:], points)


@every_model
def test_float32_keeps_its_digits(model: str) -> None:
    """Errors are a few rounding units of the largest pixel, and of that pixel over the focal length."""
    camera, narrow, points = make(model), make(model, torch.float32), in_front()
    exact, pixels = camera.project(points), narrow.project(points.float())
    assert pixels.dtype is torch.float32
    allowed = 8 * torch.finfo(torch.float32).eps * float(exact.abs().max())
    assert float((pixels - exact).abs().max()) <= allowed
    rays = narrow.unproject(exact.float())[:, :2]
    missed = (rays - camera.unproject(exact)[:, :2]).abs().max()
    assert float(missed) <= allowed / float(camera.focal().min())


@every_model
def test_jacobians_are_those_of_autograd(model: str) -> None:
    camera, points = make(model), in_front(num=9)
    points[0, :2] = 0  # on the axis
    each = torch.func.jacrev(lambda p: camera.project(p[None])[0])
    assert_close(camera.project_jacobian(points), torch.func.vmap(each)(points))
    plane = points[:, :2]
    each = torch.func.jacrev(lambda p: camera.distort(p[None])[0])
    assert_close(camera.distort_jacobian(plane), torch.func.vmap(each)(plane))


@every_model
def test_projecting_and_unprojecting_have_gradients_of_points_and_parameters(model: str) -> None:
    camera, points = make(model), in_front(num=4)

    def there(params: Tensor, points: Tensor) -> Tensor:
        return Camera(model, params, 640, 480).project(points)

    def back(params: Tensor, pixels: Tensor) -> Tensor:
        return Camera(model, params, 640, 480).unproject(pixels)

    params, pixels = camera.params.requires_grad_(), camera.project(points).detach()
    torch.autograd.gradcheck(there, (params, points.requires_grad_()))
    torch.autograd.gradcheck(back, (params, pixels.requires_grad_()))


@every_model
def test_a_batch_of_cameras_projects_each_its_own_points(model: str) -> None:
    camera = make(model)
    params = camera.params * torch.tensor([[1.0], [1.1]], dtype=torch.float64)
    points = torch.stack([in_front(0), in_front(1)])
    both = Camera(model, params, 640, 480).project(points)
    for one, own, expected in zip(params, points, both, strict=True):
        assert_close(Camera(model, one, 640, 480).project(own), expected)


@every_model
def test_what_is_not_in_front_has_no_pixel_and_harms_no_gradient(model: str) -> None:
    points = torch.tensor([[0.1, 0.2, -1.0], [0.1, 0.2, 0.0], [0.1, 0.2, 1.0]]).double()
    points.requires_grad_()
    pixels = make(model).project(points)
    assert pixels[:2].isnan().all()
    pixels[2].sum().backward()
    assert points.grad.isfinite().all()


def test_what_a_lens_cannot_show_has_no_ray() -> None:
    camera = make(
        "SIMPLE_RADIAL"
    )  # it puts nothing farther out than r (1 - r^2 / 10) at its largest
    most = (10 / 3) ** 0.5 * 2 / 3
    edge = torch.tensor([[0.99 * most, 0.0], [1.01 * most, 0.0]], dtype=torch.float64)
    rays = camera.undistort(edge)
    assert_close(camera.distort(rays[:1]), edge[:1])
    assert rays[1].isnan().all()


@given(model=models, seed=seeds)
def test_a_resized_image_has_resized_pixels(model: str, seed: int) -> None:
    camera, points = make(model), in_front(seed)
    assert_close(camera.resized(320, 240).project(points), camera.project(points) / 2)


def test_one_focal_length_bears_sizes_that_were_rounded() -> None:
    lens = torch.tensor([800.0, 512.0, 341.5, 0.0], dtype=torch.float64)
    camera = Camera("SIMPLE_RADIAL", lens, 1024, 683).resized(3072, 2048)
    assert (camera.width, camera.height) == (3072, 2048)
    assert camera.params.tolist() == [2400, 1536, 1024, 0]
    assert camera.resized(1024, 683).params.tolist() == lens.tolist()


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no camera model 'FOV'; choose one of PINHOLE"):
        Camera("FOV", torch.ones(5), 640, 480)
    with pytest.raises(ValueError, match=r"RADIAL has 5 parameters \(f, cx, cy, k1, k2\), got 4"):
        Camera("RADIAL", torch.ones(4), 640, 480)
    with pytest.raises(ValueError, match="1 pixel at least, got 0 x 480"):
        Camera("PINHOLE", torch.ones(4), 0, 480)
    with pytest.raises(
        ValueError, match="one focal length: scale 640 x 480 evenly, not to 640 x 4"
    ):
        make("RADIAL").resized(640, 400)

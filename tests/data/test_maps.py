"""Maps come back bit for bit, agree with pycolmap, and broken files are named."""

from pathlib import Path

import h5py
import numpy as np
import pycolmap
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from cuesta.data.maps import Map, read_map, write_map
from cuesta.errors import UserError

FLOATS = (".pfm", ".bin", ".h5")
BITS = st.floats(width=32, allow_nan=False)
depths = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2), elements=BITS)


def make(*shape: int) -> Map:
    return np.random.default_rng(0).uniform(0.5, 60, shape).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("maps")


@pytest.mark.parametrize("suffix", FLOATS)
@given(depth=depths)
def test_depth_comes_back_bit_for_bit(suffix: str, depth: Map, folder: Path) -> None:
    write_map(folder / f"depth{suffix}", depth)
    again = read_map(folder / f"depth{suffix}")
    assert again.dtype == np.float32
    assert np.array_equal(again.view(np.uint32), depth.view(np.uint32))


@pytest.mark.parametrize("suffix", [".pfm", ".bin"])
def test_normals_come_back_bit_for_bit(suffix: str, tmp_path: Path) -> None:
    normals = make(4, 7, 3)
    write_map(tmp_path / f"normal{suffix}", normals)
    assert np.array_equal(read_map(tmp_path / f"normal{suffix}"), normals)


@pytest.mark.parametrize("unit", [0.001, 1 / 256])
def test_png_is_off_by_half_a_step_and_then_stays(unit: float, tmp_path: Path) -> None:
    depth = make(5, 9)
    depth[0, 0] = 0
    write_map(tmp_path / "depth.png", depth, unit=unit)
    once = read_map(tmp_path / "depth.png", unit=unit)
    assert np.abs(once.astype(float) - depth).max() <= unit / 2 * (1 + 1e-3)
    assert once[0, 0] == 0
    write_map(tmp_path / "again.png", once, unit=unit)
    assert np.array_equal(read_map(tmp_path / "again.png", unit=unit), once)
    with Image.open(tmp_path / "depth.png") as image:
        assert image.mode == "I;16"


def test_colmap_reads_ours_and_we_read_colmaps(tmp_path: Path) -> None:
    depth, normals = make(6, 5), make(6, 5, 3)
    write_map(tmp_path / "depth.bin", depth)
    write_map(tmp_path / "normal.bin", normals)
    theirs = pycolmap.DepthMap()
    theirs.read(tmp_path / "depth.bin")
    assert np.array_equal(theirs.to_array(), depth)
    pycolmap.DepthMap.from_array(depth, 0.0, 100.0).write(tmp_path / "other.bin")
    assert (tmp_path / "other.bin").read_bytes() == (tmp_path / "depth.bin").read_bytes()
    theirs = pycolmap.NormalMap()  # its arrays are not what COLMAP's own reader makes of the planes
    theirs.read(tmp_path / "normal.bin")
    assert (theirs.width, theirs.height) == (5, 6)
    theirs.write(tmp_path / "other.bin")
    assert np.array_equal(read_map(tmp_path / "other.bin"), normals)


def test_a_pfm_of_the_other_byte_order_is_read_from_the_bottom_up(tmp_path: Path) -> None:
    rows = np.array([[1, 2], [3, 4]], ">f4")
    (tmp_path / "big.pfm").write_bytes(b"Pf\n2 2\n1.0\n" + rows.tobytes())
    assert read_map(tmp_path / "big.pfm").tolist() == [[3, 4], [1, 2]]


@pytest.mark.parametrize("suffix", [*FLOATS, ".png"])
def test_a_file_cut_short_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"depth{suffix}"
    write_map(path, make(40, 30))
    whole = path.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"depth{suffix}: no whole \{suffix} map .*write it"):
            read_map(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("huge.pfm", b"Pf\n999999999 999999999\n-1\n"), ("huge.bin", b"999999999&999999999&1&")],
)
def test_a_size_that_no_file_has_takes_no_memory(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"999999999 x 999999999.*not between 1 and 2\^28"):
        read_map(tmp_path / name)


def test_an_h5_that_points_outside_itself_is_refused(tmp_path: Path) -> None:
    write_map(tmp_path / "other.h5", make(2, 2))
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["depth"] = h5py.ExternalLink("other.h5", "depth")
    with pytest.raises(UserError, match="no dataset 'depth' of its own"):
        read_map(tmp_path / "link.h5")
    (tmp_path / "raw").write_bytes(bytes(16))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("depth", (2, 2), "f4", external=[(str(tmp_path / "raw"), 0, 16)])
    with pytest.raises(UserError, match="no plain dataset"):
        read_map(tmp_path / "raw.h5")


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.pfm: no such file"):
        read_map(tmp_path / "nothing.pfm")
    with pytest.raises(UserError, match=r"called '\.exr'; use \.pfm, \.bin, \.h5, \.png"):
        read_map(tmp_path / "depth.exr")
    with pytest.raises(ValueError, match=r"\[Y, X\], not empty, got float32 \[2, 2, 3\]"):
        write_map(tmp_path / "depth.h5", make(2, 2, 3))
    with pytest.raises(ValueError, match="got float64"):
        write_map(tmp_path / "depth.pfm", make(2, 2).astype(float))
    with pytest.raises(ValueError, match=r"from 0 to 65\.535 in steps of 0\.001, got 70 to 70"):
        write_map(tmp_path / "depth.png", np.full((1, 1), 70, np.float32))
    assert not list(tmp_path.iterdir())
    Image.new("L", (2, 2)).save(tmp_path / "grey.png")
    with pytest.raises(UserError, match="it holds L, not one channel of 16 bits"):
        read_map(tmp_path / "grey.png")

"""Clouds come back bit for bit or within the step that is promised, and broken files are named."""

import importlib.util
from pathlib import Path

import laspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from plyfile import PlyData, PlyElement

from cuesta.data.clouds import LAS_STEP_M, Cloud, read_cloud, write_cloud
from cuesta.errors import UserError

EXACT = (".ply", ".pcd")
needs_lazrs = pytest.mark.skipif(
    importlib.util.find_spec("lazrs") is None, reason="lazrs is not installed"
)
FIELDS = ("positions", "colors", "normals", "intensity")


@st.composite
def clouds(draw: st.DrawFn, *, largest: float = 1e308, has_normals: bool = True) -> Cloud:
    """Draw a cloud of 0 to 8 points, with any of colours, normals and intensity."""
    count = draw(st.integers(0, 8))

    def column(dtype: type, elements: st.SearchStrategy, *shape: int) -> np.ndarray | None:
        if not draw(st.booleans()):
            return None
        return draw(arrays.arrays(dtype, (count, *shape), elements=elements))

    number = st.floats(-largest, largest)
    narrow = st.floats(width=32, allow_nan=False)
    return Cloud(
        draw(arrays.arrays(np.float64, (count, 3), elements=number)),
        colors=column(np.uint8, st.integers(0, 255), 3),
        normals=column(np.float32, narrow, 3) if has_normals else None,
        intensity=column(np.float32, narrow) if has_normals else None,
    )


def make_cloud(count: int = 50, *, size: float = 100.0, is_whole: bool = True) -> Cloud:
    """Return a random cloud without normals, of intensities that LAS can hold if `is_whole`."""
    generator = np.random.default_rng(0)
    intensity = generator.uniform(0, 60000, count).astype(np.float32)
    return Cloud(
        generator.uniform(-size, size, (count, 3)),
        colors=generator.integers(0, 256, (count, 3), dtype=np.uint8),
        intensity=np.rint(intensity) if is_whole else intensity,
    )


def assert_same(one: Cloud, other: Cloud) -> None:
    """Compare every bit of two clouds."""
    for name in FIELDS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clouds")


@pytest.mark.parametrize("suffix", EXACT)
@given(cloud=clouds())
def test_clouds_come_back_bit_for_bit(suffix: str, cloud: Cloud, folder: Path) -> None:
    write_cloud(folder / f"cloud{suffix}", cloud)
    assert_same(cloud, read_cloud(folder / f"cloud{suffix}"))


@pytest.mark.parametrize("suffix", [".las", pytest.param(".laz", marks=needs_lazrs)])
@given(cloud=clouds(largest=1e5, has_normals=False))
def test_las_is_off_by_half_a_step_and_then_stays(suffix: str, cloud: Cloud, folder: Path) -> None:
    write_cloud(folder / f"cloud{suffix}", cloud)
    once = read_cloud(folder / f"cloud{suffix}")
    rounding = 4 * np.finfo(float).eps * (1e5 + LAS_STEP_M)
    if len(cloud):
        assert np.abs(once.positions - cloud.positions).max() <= LAS_STEP_M / 2 + rounding
    write_cloud(folder / f"again{suffix}", once)
    assert_same(once, read_cloud(folder / f"again{suffix}"))


def test_las_stays_where_the_middle_is_between_two_offsets(tmp_path: Path) -> None:
    apart = np.random.default_rng(0).integers(1, 10**8, (50, 3)) * LAS_STEP_M
    middle = np.array([50000.00003, 4.75e6 + 0.00002, -150000.00002])
    cloud = Cloud(np.concatenate([middle + apart, middle - apart]))
    write_cloud(tmp_path / "a.las", cloud)
    once = read_cloud(tmp_path / "a.las")
    assert np.abs(once.positions - cloud.positions).max() <= LAS_STEP_M / 2 + np.spacing(4.75e6)
    write_cloud(tmp_path / "b.las", once)
    assert_same(once, read_cloud(tmp_path / "b.las"))


def test_las_keeps_colours_and_whole_intensities(tmp_path: Path) -> None:
    cloud = make_cloud()
    write_cloud(tmp_path / "a.las", cloud)
    again = read_cloud(tmp_path / "a.las")
    assert_same(Cloud(again.positions, cloud.colors, None, cloud.intensity), again)
    assert np.asarray(laspy.read(tmp_path / "a.las").red).max() > 255


def test_las_of_8_bits_in_16_is_read_as_8_bits(tmp_path: Path) -> None:
    las = laspy.LasData(laspy.LasHeader(version="1.2", point_format=2))
    las.X = las.red = las.green = las.blue = np.array([0, 7, 255])
    las.write(tmp_path / "a.las")
    cloud = read_cloud(tmp_path / "a.las")
    assert cloud.colors is not None
    assert cloud.colors[:, 0].tolist() == [0, 7, 255]
    assert cloud.intensity is None


def test_a_scan_of_kitti_is_rows_of_four_floats(tmp_path: Path) -> None:
    rows = np.array([[1.5, -2.25, 0.1, 0.75], [3, 4, 5, 0]], "<f4")
    rows.tofile(tmp_path / "000000.bin")
    cloud = read_cloud(tmp_path / "000000.bin")
    assert cloud.intensity is not None
    assert cloud.intensity.tolist() == [0.75, 0]
    assert np.array_equal(cloud.positions, rows[:, :3])
    write_cloud(tmp_path / "again.bin", cloud)
    assert (tmp_path / "again.bin").read_bytes() == rows.tobytes()
    write_cloud(tmp_path / "bare.bin", Cloud(cloud.positions))
    assert np.fromfile(tmp_path / "bare.bin", "<f4")[3::4].tolist() == [0, 0]


def test_formats_agree_with_each_other(tmp_path: Path) -> None:
    write_cloud(tmp_path / "0.las", make_cloud())
    first = cloud = read_cloud(tmp_path / "0.las")
    for place, suffix in enumerate((".ply", ".pcd", ".las", ".ply", ".pcd")):
        write_cloud(tmp_path / f"{place}{suffix}", cloud)
        cloud = read_cloud(tmp_path / f"{place}{suffix}")
    assert_same(first, cloud)


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_plys_of_others_are_read(text: bool, order: str, tmp_path: Path) -> None:
    kinds = ["f4", "f4", "f4", "u1", "u1", "u1", "f4"]
    names = ["x", "y", "z", "red", "green", "blue", "scalar_Intensity"]
    fields = list(zip(names, kinds, strict=True))
    vertices = np.array([(1.5, 2.5, -3.5, 9, 8, 7, 0.25)], fields)
    faces = np.array([([0, 0, 0],)], [("vertex_indices", "i4", (3,))])
    elements = [PlyElement.describe(faces, "face"), PlyElement.describe(vertices, "vertex")]
    PlyData(elements, text=text, byte_order="=" if text else order).write(tmp_path / "a.ply")
    cloud = read_cloud(tmp_path / "a.ply")
    assert cloud.positions.tolist() == [[1.5, 2.5, -3.5]]
    assert cloud.colors is not None
    assert cloud.colors.tolist() == [[9, 8, 7]]
    assert cloud.intensity is not None
    assert cloud.intensity.tolist() == [0.25]


def test_a_ply_says_what_it_holds(tmp_path: Path) -> None:
    write_cloud(tmp_path / "a.ply", make_cloud(2))
    head = (tmp_path / "a.ply").read_bytes().split(b"end_header")[0].decode().split("\n")
    assert head[1:3] == ["format binary_little_endian 1.0", "element vertex 2"]
    assert "property double x" in head
    assert "property uchar red" in head


def test_points_of_a_pcd_without_measurement_are_left_out(tmp_path: Path) -> None:
    header = "FIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nWIDTH 2\nHEIGHT 1\nDATA ascii\n"
    (tmp_path / "a.pcd").write_text(f"{header}nan nan nan 3\n1 2 3 4\n")
    cloud = read_cloud(tmp_path / "a.pcd")
    assert cloud.positions.tolist() == [[1, 2, 3]]
    assert cloud.intensity is not None
    assert cloud.intensity.tolist() == [4]


@pytest.mark.parametrize(
    "suffix", [*EXACT, ".las", ".bin", pytest.param(".laz", marks=needs_lazrs)]
)
def test_a_file_cut_short_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cloud{suffix}"
    write_cloud(path, Cloud(make_cloud().positions))
    whole = path.read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 13, len(whole) - 1):
        path.write_bytes(whole[:size])
        if suffix == ".bin" and size % 16 == 0:
            continue
        with pytest.raises(UserError, match=rf"cloud\{suffix}: no whole \{suffix} cloud .*write"):
            read_cloud(path)


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_a_count_that_no_ply_has_takes_no_memory(kind: str, tmp_path: Path) -> None:
    for count in (999_999_999_999, 1_000_000):
        columns = "property double x\nproperty double y\nproperty double z\nend_header\n"
        head = f"ply\nformat {kind} 1.0\nelement vertex {count}\n{columns}"
        (tmp_path / "a.ply").write_bytes(head.encode() + bytes(48))
        with pytest.raises(UserError, match=f"promises {count} of vertex, more than it can hold"):
            read_cloud(tmp_path / "a.ply")


def test_a_count_that_no_las_has_takes_no_memory(tmp_path: Path) -> None:
    write_cloud(tmp_path / "a.las", make_cloud(3))
    content = bytearray((tmp_path / "a.las").read_bytes())
    content[107:111] = (0xFFFFFFFF).to_bytes(4, "little")  # the number of points of LAS 1.2
    (tmp_path / "a.las").write_bytes(content)
    with pytest.raises(UserError, match="bytes, where 4294967295 points alone have"):
        read_cloud(tmp_path / "a.las")


def test_plys_that_are_no_clouds_are_named(tmp_path: Path) -> None:
    for fields, name, message in (
        ([("x", "f4"), ("y", "f4")], "vertex", "it has no x, y and z"),
        ([("x", "f4"), ("y", "f4"), ("z", "f4")], "point", "it has no element 'vertex'"),
        ([(one, "f4") for one in ("x", "y", "z", "red", "green", "blue")], "vertex", "are float32"),
        ([("x", "O"), ("y", "f4"), ("z", "f4")], "vertex", "x, y, z are not one number each"),
    ):
        values = np.zeros(1, fields)
        if fields[0][1] == "O":
            values["x"][0] = np.zeros(2, "f4")
        kinds = {"len_types": {"x": "u1"}, "val_types": {"x": "f4"}}
        PlyData([PlyElement.describe(values, name, **kinds)]).write(tmp_path / "a.ply")
        with pytest.raises(UserError, match=message):
            read_cloud(tmp_path / "a.ply")


@pytest.mark.parametrize("suffix", [".ply", ".bin"])
def test_positions_that_are_none_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_cloud(path, Cloud(np.array([[1.0, 2, 3], [4, 5, 6]])))
    six = np.array(6, "<f8" if suffix == ".ply" else "<f4").tobytes()
    nan = np.array(np.nan, "<f8" if suffix == ".ply" else "<f4").tobytes()
    path.write_bytes(path.read_bytes().replace(six, nan))
    with pytest.raises(UserError, match="the position of point 1 is not finite"):
        read_cloud(path)


def test_clouds_are_checked() -> None:
    points = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"positions should be float64 \[2, 3\], got float32"):
        Cloud(points.astype(np.float32))
    with pytest.raises(ValueError, match=r"colors should be uint8 \[2, 3\], got uint8 \[3, 3\]"):
        Cloud(points, colors=np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"normals should be float32 \[2, 3\], got float64"):
        Cloud(points, normals=points)
    with pytest.raises(ValueError, match=r"intensity should be float32 \[2\], .*\[2, 1\]"):
        Cloud(points, intensity=np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match="the position of point 1 is not finite"):
        Cloud(np.array([[0, 0, 0], [0, np.inf, 0]]))


def test_mistakes_are_named(tmp_path: Path) -> None:
    cloud, normals = make_cloud(2), np.zeros((2, 3), np.float32)
    with pytest.raises(UserError, match=r"nothing\.ply: no such file"):
        read_cloud(tmp_path / "nothing.ply")
    with pytest.raises(UserError, match=r"called '\.xyz'; use \.ply, \.pcd, \.las, \.laz, \.bin"):
        read_cloud(tmp_path / "cloud.xyz")
    with pytest.raises(ValueError, match=r"a \.las holds no normals; write a \.ply or leave"):
        write_cloud(tmp_path / "a.las", Cloud(cloud.positions, normals=normals))
    with pytest.raises(ValueError, match=r"a \.bin holds no colors"):
        write_cloud(tmp_path / "a.bin", cloud)
    with pytest.raises(ValueError, match=r"a \.las holds intensities 0, 1 \.\.\. 65535"):
        write_cloud(tmp_path / "a.las", make_cloud(is_whole=False))
    for far in (5e5, 1e20, 1e308):
        with pytest.raises(ValueError, match=r"a \.las holds no more than 300 km"):
            write_cloud(tmp_path / "a.las", Cloud(np.array([[0.0, 0, 0], [far, 0, 0]])))
    with pytest.raises(ValueError, match=r"a \.bin holds positions up to 3\.4e\+38"):
        write_cloud(tmp_path / "a.bin", Cloud(np.full((1, 3), 1e39)))
    assert not list(tmp_path.iterdir())


def test_laz_without_lazrs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laspy.LazBackend, "detect_available", lambda: ())
    with pytest.raises(UserError, match=r"a\.laz: \.laz needs the package lazrs; pip install"):
        write_cloud(tmp_path / "a.laz", make_cloud(2))
    with pytest.raises(UserError, match=r"a\.laz: \.laz needs the package lazrs"):
        read_cloud(tmp_path / "a.laz")

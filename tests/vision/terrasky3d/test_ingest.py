"""Ingest keeps what is good, names what is not, and groups photos by camera."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cuesta.errors import UserError
from cuesta.vision.terrasky3d.ingest import ingest, list_inputs
from cuesta.vision.terrasky3d.settings import IngestSettings
from tests.vision.terrasky3d.pictures import exif_of, textured, write_photo


def run(photos: Path, out: Path, settings: IngestSettings | None = None) -> dict:
    return ingest(photos, out, settings or IngestSettings(), lambda *_: None)


def reasons(result: dict) -> dict[str, str]:
    return {item["source"]: item["reason"] for item in result["excluded"]}


def names(result: dict) -> list[str]:
    return [image["name"] for image in result["images"]]


def test_photos_share_a_camera_by_folder_lens_and_upright_size(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    lens = {"make": "Phone", "focal_35mm": 26.0}
    write_photo(photos / "a1.jpg", textured(160, 120, 1), exif_of(**lens))
    write_photo(photos / "a2.jpg", textured(160, 120, 2), exif_of(**lens))
    write_photo(photos / "b.jpg", textured(160, 120, 3), exif_of(orientation=6, **lens))
    write_photo(photos / "c.jpg", textured(160, 120, 4), exif_of(make="Phone", focal_35mm=13.0))
    write_photo(photos / "drone" / "d.jpg", textured(160, 120, 5), exif_of(**lens))
    result = run(photos, tmp_path / "out")
    assert names(result) == [
        *("cam_0/a1.jpg", "cam_0/a2.jpg", "cam_1/b.jpg", "cam_2/c.jpg", "cam_3/d.jpg"),
    ]
    cameras = [(c["width"], c["height"], c["from"], c["num_images"]) for c in result["cameras"]]
    assert cameras == [
        *((160, 120, ".", 2), (120, 160, ".", 1), (160, 120, ".", 1), (160, 120, "drone", 1)),
    ]
    assert result["cameras"][2]["focal_px"] == result["cameras"][0]["focal_px"] / 2


def test_upright_photos_keep_their_bytes_and_turned_ones_are_turned(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    kept = write_photo(photos / "a.jpg", textured(160, 120, 1))
    write_photo(photos / "b.png", textured(160, 120, 2), exif_of(orientation=8))
    write_photo(photos / "c.tif", textured(160, 120, 3))
    out = tmp_path / "out"
    assert names(run(photos, out)) == ["cam_0/a.jpg", "cam_0/c.png", "cam_1/b.png"]
    assert (out / "images/cam_0/a.jpg").read_bytes() == kept.read_bytes()
    with Image.open(out / "images/cam_1/b.png") as image:
        assert np.array_equal(np.asarray(image), np.rot90(textured(160, 120, 2)))
    with Image.open(out / "images/cam_0/c.png") as image:
        assert np.array_equal(np.asarray(image), textured(160, 120, 3))


def test_what_is_not_good_is_named(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(4):
        write_photo(photos / f"good_{number}.png", textured(400, 300, number))
    write_photo(photos / "blurred.png", cv2.GaussianBlur(textured(400, 300, 9), (0, 0), 9))
    write_photo(photos / "black.png", np.zeros((300, 400), np.uint8))
    write_photo(photos / "twin.png", textured(400, 300, 2))
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    (photos / "notes.txt").write_text("not a photo, and not a fault")
    result = run(photos, tmp_path / "out")
    told = reasons(result)
    assert sorted(told) == ["black.png", "blurred.png", "broken.jpg", "twin.png"]
    assert "blurred" in told["blurred.png"]
    assert "black or white" in told["black.png"]
    assert "good_2.png" in told["twin.png"]
    assert "not readable" in told["broken.jpg"]
    assert names(result) == [f"cam_0/good_{number}.png" for number in range(4)]


def test_keep_all_keeps_what_can_be_read(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(2):
        write_photo(photos / f"{number}.png", textured(400, 300, 7))
    (photos / "broken.jpg").write_bytes(b"")
    result = run(photos, tmp_path / "out", IngestSettings(keep_all=True))
    assert names(result) == ["cam_0/0.png", "cam_0/1.png"]
    assert list(reasons(result)) == ["broken.jpg"]


def test_one_stem_in_two_formats_gives_two_images(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_photo(photos / "a.png", textured(160, 120, 1))
    write_photo(photos / "a.jpg", textured(160, 120, 2))
    stems = {Path(name).stem for name in names(run(photos, tmp_path / "out"))}
    assert stems == {"a", "a_png"}


def test_images_that_are_there_are_not_written_again(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(3):
        write_photo(photos / f"{number}.jpg", textured(160, 120, number))
    first = run(photos, tmp_path / "out")
    files = [tmp_path / "out" / "images" / name for name in names(first)]
    before = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    assert run(photos, tmp_path / "out") == first
    assert [file.stat().st_mtime_ns for file in files][::2] == before[::2]
    assert files[1].exists()


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_are_refused_with_reasons(count: int, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    (photos / "broken.jpg").write_bytes(b"")
    for number in range(count):
        write_photo(photos / f"{number}.png", textured(160, 120))
    with pytest.raises(UserError, match=r"photos: (no|only 1) usable image: broken\.jpg"):
        run(photos, tmp_path / "out")


def test_a_folder_without_photos_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="no photo or video in it"):
        list_inputs(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        list_inputs(tmp_path / "missing")


def test_a_video_gives_the_sharpest_frame_of_each_interval(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 240))
    for number in range(30):
        frame = textured(320, 240, number)
        if number % 10 != 4:
            frame = cv2.GaussianBlur(frame, (0, 0), 4)
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()
    result = run(video, tmp_path / "out")
    assert names(result) == [f"cam_0/frame_{number:06d}.jpg" for number in range(3)]
    assert {image["clip"] for image in result["images"]} == {"clip"}
    for number, name in enumerate(names(result)):
        frame = cv2.imread(str(tmp_path / "out" / "images" / name), cv2.IMREAD_GRAYSCALE)
        likeness = [
            np.corrcoef(frame.ravel(), textured(320, 240, 10 * number + k).ravel())[0, 1]
            for k in range(10)
        ]
        assert int(np.argmax(likeness)) == 4

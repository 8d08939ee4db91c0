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


def test_photos_upside_down_are_another_camera(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number, orientation in enumerate((1, 3, 6, 8)):
        exif = exif_of(orientation=orientation, make="Phone")
        write_photo(photos / f"{number}.jpg", textured(160, 120, number), exif)
    assert len(run(photos, tmp_path / "out")["cameras"]) == 4  # turning moves the principal point


def test_names_that_others_do_not_bear_are_made_plain(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number, name in enumerate(("a b.jpg", "a_b.jpg", "A_B.png", "ä\\ö (1).jpg")):
        write_photo(photos / name, textured(160, 120, number))
    (photos / b"\xff.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"")
    result = run(photos, tmp_path / "out")
    stems = [Path(name).stem.lower() for name in names(result)]
    assert len(set(stems)) == 4
    assert not any(" " in stem or "\\" in stem for stem in stems)
    assert list(reasons(result)) == ["?.jpg"]


def test_two_clips_of_one_stem_keep_their_frames(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, name in enumerate(("a.mp4", "a.avi")):
        code = cv2.VideoWriter.fourcc(*("mp4v" if name.endswith("mp4") else "MJPG"))
        writer = cv2.VideoWriter(str(photos / name), code, 10, (320, 240))
        for _ in range(5):
            writer.write(cv2.cvtColor(textured(320, 240, number), cv2.COLOR_GRAY2BGR))
        writer.release()
    assert len(names(run(photos, tmp_path / "out"))) == 2


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
    (photos / ".thumbnails").mkdir()
    write_photo(photos / ".thumbnails" / "small.png", textured(160, 120))
    (photos / "phone.heic").write_bytes(b"x")
    result = run(photos, tmp_path / "out")
    assert result["notes"] == ["notes.txt: no photo or video; ignored"]
    told = reasons(result)
    assert "convert it to JPEG" in told.pop("phone.heic")
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
    assert len(result["notes"]) == 1
    assert "1.png: shows what 0.png shows" in result["notes"][0]
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
    assert {image["clip"] for image in result["images"]} == {"clip.mp4"}
    for number, name in enumerate(names(result)):
        frame = cv2.imread(str(tmp_path / "out" / "images" / name), cv2.IMREAD_GRAYSCALE)
        likeness = [
            np.corrcoef(frame.ravel(), textured(320, 240, 10 * number + k).ravel())[0, 1]
            for k in range(10)
        ]
        assert int(np.argmax(likeness)) == 4


def test_each_frame_counts_at_its_own_time(tmp_path: Path) -> None:
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 1, (320, 240))
    for number in range(4):
        writer.write(cv2.cvtColor(textured(320, 240, number), cv2.COLOR_GRAY2BGR))
    writer.release()
    assert names(run(video, tmp_path / "out")) == [
        f"cam_0/frame_{number:06d}.jpg" for number in range(4)
    ]


def test_a_video_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(2):
        write_photo(photos / f"{number}.png", textured(160, 120, number))
    (photos / "broken.mp4").write_bytes(b"no video")
    assert "no frame" in reasons(run(photos, tmp_path / "out"))["broken.mp4"]


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "I;16", "P", "1"])
def test_pixels_that_not_every_tool_reads_become_plain(mode: str, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_photo(photos / "plain.png", textured(160, 120, 1))
    gray = textured(160, 120, 2)
    if mode == "I;16":
        image = Image.fromarray(gray.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.stack([gray] * 3, -1)).convert(mode)
    image.save(photos / ("odd.jpg" if mode == "CMYK" else "odd.png"))
    settings = IngestSettings(max_clipped=1.0, min_sharpness=0.0)
    (odd,) = (name for name in names(run(photos, tmp_path / "out", settings)) if "odd" in name)
    with Image.open(tmp_path / "out" / "images" / odd) as written:
        assert written.mode in ("L", "RGB")
        assert written.size == (160, 120)
        if mode not in ("1", "P"):
            seen = np.asarray(written.convert("L"), float)
            assert np.corrcoef(seen.ravel(), gray.ravel())[0, 1] > 0.98

"""Ingest: photos and videos to upright images, one folder a camera, with every exclusion named.

Photos share a camera when they lie in the same folder, say the same make, model, lens and focal
length, and were turned alike: photos of one phone held in two ways are two cameras, since turning moves the
principal point. Pixels are copied as they are unless they must be
turned or are in a format that the next steps do not read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any, final

from cuesta.data.files import atomic_file
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.photos import (
    SUFFIXES,
    Photo,
    UnreadableError,
    motion_between,
    read_photo,
)
from cuesta.vision.terrasky3d.photos import upright as read_upright
from cuesta.vision.terrasky3d.settings import IngestSettings
from cuesta.vision.terrasky3d.video import VIDEO_SUFFIXES, extract_frames

_QUALITY = 97  # of JPEGs that had to be turned
_MOST_NAMED = 20
_NEAR_BITS = 4


@final
@dataclass(frozen=True, kw_only=True)
class Source:
    """Hold one photo or frame as it came: its path, its name relative to the folder, its clip."""

    path: Path
    name: str
    clip: str | None


def list_inputs(photos: Path) -> list[list[Any]]:
    """Return name, size and time of change of every photo and video below the folder, sorted.

    Raises `UserError` where there is no folder, or nothing in it to read.
    """
    if not photos.exists():
        raise UserError(f"{photos}: no such folder; name a folder of photos or a video")
    if not os.access(photos, os.R_OK):
        raise UserError(f"{photos}: no permission to read it; change its rights")
    found = []
    for path in sorted([photos] if photos.is_file() else photos.rglob("*")):
        is_known = path.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES
        name = _relative(path, photos)
        is_hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
        if is_known and path.is_file() and not is_hidden:
            about = path.stat()
            found.append([name, about.st_size, about.st_mtime_ns])
    if not found:
        kinds = ", ".join(sorted(SUFFIXES | VIDEO_SUFFIXES))
        raise UserError(f"{photos}: no photo or video in it ({kinds}); name another folder")
    return found


def ingest(
    photos: Path,
    folder: Path,
    settings: IngestSettings,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write `folder/images/cam_N/...` and return what became of each input and each camera.

    The result holds `images` (name, source, focal, GPS, size, clip, notes), `excluded` (source,
    reason) and `cameras` (folder, size, EXIF focal length, what EXIF calls it). Images that a run cut
    off has written are not written again. Raises `UserError` where fewer than two are left.
    """
    excluded: list[dict[str, str]] = []
    sources = _sources(photos, folder, settings, excluded)
    read: list[tuple[Source, Photo]] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for done, (source, photo) in enumerate(zip(sources, pool.map(_try, sources), strict=True)):
            if isinstance(photo, str):
                excluded.append({"source": source.name, "reason": f"not readable: {photo}"})
            else:
                read.append((source, photo))
            on_progress(done + 1, 2 * len(sources))
        kept, poor = _judge(read, settings)
        excluded += [] if settings.keep_all else poor
        if len(kept) < 2:
            raise UserError(_too_few(photos, len(kept), excluded))
        groups = _cameras(kept)
        images = _named(groups)
        copied = pool.map(
            lambda item: _write(item[1][0], item[1][1], folder / "images" / item[0]), images.items()
        )
        for done, _ in enumerate(copied):
            on_progress(len(sources) + done + 1, len(sources) + len(images))
    return {
        "images": [_about(name, source, photo) for name, (source, photo) in images.items()],
        "excluded": sorted(excluded, key=lambda item: item["source"]),
        "notes": [
            *(f"{name}: no photo or video; ignored" for name in _others(photos)),
            *(f"{item['source']}: {item['reason']}; kept" for item in poor if settings.keep_all),
        ],
        "cameras": [
            {
                "folder": _folder(number, group),
                "width": group[0][1].width,
                "height": group[0][1].height,
                "focal_px": group[0][1].focal_px,
                "exif": group[0][1].camera,
                "from": str(PurePosixPath(group[0][0].name).parent),
                "num_images": len(group),
            }
            for number, group in enumerate(groups)
        ],
    }


def _sources(
    photos: Path, folder: Path, settings: IngestSettings, excluded: list[dict[str, str]]
) -> list[Source]:
    """Return the photos, and the frames of the videos after extracting them."""
    sources = []
    for name, *_ in list_inputs(photos):
        path = photos if photos.is_file() else photos / name
        if path.suffix.lower() in SUFFIXES:
            sources.append(Source(path=path, name=_shown(name), clip=None))
            continue
        shown = _shown(name)
        frames = extract_frames(path, folder / "clips" / shown, settings.frames_per_second)
        if not frames:
            reason = "not readable: no frame of it can be decoded"
            excluded.append({"source": shown, "reason": reason})
        for frame in frames:
            sources.append(Source(path=frame, name=f"{shown}/{frame.name}", clip=shown))
    return sources


def _others(photos: Path) -> list[str]:
    """Return the names of the files that are neither photos nor videos, at most `_MOST_NAMED`."""
    known = SUFFIXES | VIDEO_SUFFIXES
    paths = [] if photos.is_file() else sorted(photos.rglob("*"))
    names = [
        _shown(_relative(path, photos))
        for path in paths
        if path.suffix.lower() not in known and not path.is_dir()
    ]
    seen = [name for name in names if not any(p.startswith(".") for p in name.split("/"))]
    more = [f"{len(seen) - _MOST_NAMED} more files"] if len(seen) > _MOST_NAMED else []
    return seen[:_MOST_NAMED] + more


def _try(source: Source) -> Photo | str:
    try:
        return read_photo(source.path)
    except UnreadableError as error:
        return str(error)


def _judge(
    read: Sequence[tuple[Source, Photo]], settings: IngestSettings
) -> tuple[list[tuple[Source, Photo]], list[dict[str, str]]]:
    """Return what is good enough to keep, and the reasons why the rest is not."""
    kept: list[tuple[Source, Photo]] = []
    excluded: list[dict[str, str]] = []
    for group in _cameras(read):
        usual = median(photo.sharpness for _, photo in group)
        for source, photo in group:
            reason = None
            if photo.clipped > settings.max_clipped:
                reason = f"{photo.clipped:.0%} of its pixels are black or white"
            elif photo.sharpness < settings.min_sharpness * usual:
                reason = f"blurred: {photo.sharpness / usual:.0%} of its camera's median sharpness"
            else:
                twin = _twin(source, photo, kept, settings)
                if twin is not None:
                    reason = f"shows what {twin} shows, from the same place"
            if reason is None or settings.keep_all:
                kept.append((source, photo))
            if reason is not None:
                excluded.append({"source": source.name, "reason": reason})
    return kept, excluded


def _twin(
    source: Source,
    photo: Photo,
    kept: Sequence[tuple[Source, Photo]],
    settings: IngestSettings,
) -> str | None:
    """Return the name of a kept image from the same place, if there is one."""
    for other, seen in kept:
        is_near = (photo.hash_bits ^ seen.hash_bits).bit_count() <= _NEAR_BITS
        if is_near and motion_between(other.path, source.path) < settings.min_motion:
            return other.name
    return None


def _cameras(read: Sequence[tuple[Source, Photo]]) -> list[list[tuple[Source, Photo]]]:
    """Return the images by camera, in the order of the first image of each."""
    groups: dict[tuple[object, ...], list[tuple[Source, Photo]]] = {}
    for source, photo in sorted(read, key=lambda item: item[0].name):
        parent = PurePosixPath(source.name).parent
        key = (parent, photo.camera, photo.width, photo.height, photo.orientation)
        groups.setdefault(key, []).append((source, photo))
    return list(groups.values())


def _named(
    groups: Sequence[Sequence[tuple[Source, Photo]]],
) -> dict[str, tuple[Source, Photo]]:
    """Return the images by the name that each gets.

    Stems are unique within a folder, also where case does not count, and have none of the characters that
    lists of pairs, archives or other systems do not bear.
    """
    named: dict[str, tuple[Source, Photo]] = {}
    for number, group in enumerate(groups):
        folder, stems = _folder(number, group), set[str]()
        for source, photo in group:
            path = PurePosixPath(source.name)
            stem = _plain(path.stem)
            if stem.lower() in stems:
                stem = _plain(path.name.replace(".", "_"))
            while stem.lower() in stems:
                stem += "_"
            stems.add(stem.lower())
            is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
            suffix = path.suffix if photo.is_plain or is_jpeg else ".png"
            named[f"{folder}/{stem}{suffix}"] = (source, photo)
    return named


def _shown(name: str) -> str:
    """Return a name that can be printed and written to JSON, also of a file that is not UTF-8."""
    return name.encode("utf-8", "replace").decode()


def _plain(stem: str) -> str:
    return re.sub(r"[^\w.+()-]+", "_", stem)


def _folder(number: int, group: Sequence[tuple[Source, Photo]]) -> str:
    """Return the name of a camera's folder; that of a drone says so, as far as its photos do."""
    source, photo = group[0]
    is_aerial = "aerial" in source.name.lower() or photo.camera.upper().startswith("DJI")
    return f"cam_{number}_aerial" if is_aerial else f"cam_{number}"


def _write(source: Source, photo: Photo, target: Path) -> None:
    if target.exists():
        return
    with atomic_file(target) as temporary:
        if photo.is_plain:
            shutil.copyfile(source.path, temporary)
        elif target.suffix.lower() == ".png":
            image = read_upright(source.path, photo.orientation)
            image.save(temporary, format="PNG", compress_level=1)
        else:
            image = read_upright(source.path, photo.orientation)
            image.save(temporary, format="JPEG", quality=_QUALITY, subsampling=0)


def _about(name: str, source: Source, photo: Photo) -> dict[str, Any]:
    facts = asdict(photo)
    del facts["hash_bits"]
    gps = photo.gps and list(photo.gps)
    return {"name": name, "source": source.name, "clip": source.clip, **facts, "gps": gps}


def _relative(path: Path, photos: Path) -> str:
    return path.name if photos.is_file() else path.relative_to(photos).as_posix()


def _too_few(photos: Path, num_kept: int, excluded: Sequence[dict[str, str]]) -> str:
    reasons = "; ".join(f"{item['source']} ({item['reason']})" for item in excluded[:5])
    found = f"only {num_kept} usable image" if num_kept else "no usable image"
    told = f": {reasons}" if excluded else ""
    return f"{photos}: {found}{told}; a reconstruction needs two, better ten or more"

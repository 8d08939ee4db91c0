"""What a data set is, for people (`datasheet.md`) and for machines (`croissant.json`), from its manifest.

The questions are those of Gebru et al., "Datasheets for datasets" (2021), as far as a program can answer
them; what it cannot know, the publisher states or the sheet says that it is not stated. Croissant is
MLCommons' JSON-LD vocabulary for data sets, version 1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from cuesta.data.files import write_text
from cuesta.data.scenes.pair_table import DISTANCES
from cuesta.data.scenes.scene import Json

NOT_STATED = "not stated"
_CROISSANT = "http://mlcommons.org/croissant/"
_SCHEMA = "https://schema.org/"
_TERMS = (
    *("citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
    *(
        "equivalentProperty",
        "samplingRate",
        "references",
        "regex",
        "repeated",
        "replace",
        "separator",
        "source",
        "subField",
        "transform",
    ),
)
_TEXT, _INTEGER, _FLOAT = "sc:Text", "sc:Integer", "sc:Float"
_COLUMNS = {
    "level_0": (_TEXT, "the image from which pixels go, by its path below frames/"),
    "level_1": (_TEXT, "the image to which they go and from which they come back"),
    "num_pixels": (_INTEGER, "how many of its pixels have depth on their way there and back"),
    **{name: (_FLOAT, f"the share of these that come back within {name}") for name in DISTANCES},
    "overlap": (_FLOAT, "the share of all its pixels with depth that come back within 10 px"),
    "kept_pixels": (_INTEGER, "how many of num_pixels its masks keep"),
    "look": (_FLOAT, "the correlation of the two images' details where they see the same"),
    "inliers": (_INTEGER, "verified inliers or shared points; empty where none were counted"),
    "stratum": (_TEXT, "ground, aerial or mixed"),
    "kept": (_INTEGER, "1 for pairs of the data set, 0 for those that its rules leave out"),
}


@final
@dataclass(frozen=True, kw_only=True)
class Statement:
    """Say what only the publisher knows."""

    name: str = "unnamed"
    description: str = NOT_STATED
    licence: str = NOT_STATED
    creator: str = NOT_STATED
    consent: str = NOT_STATED
    privacy: str = NOT_STATED
    citation: str = NOT_STATED


def write_datasheet(path: Path, manifest: Mapping[str, Json]) -> None:
    """Write the sheet for people. Raises `UserError` as `atomic_file` does."""
    said, depth = _part(manifest, "statement"), _part(manifest, "depth")
    scenes, rules = _part(manifest, "scenes"), _part(manifest, "pair_rules")
    lines = [
        f"# {said['name']}",
        "",
        str(said["description"]),
        "",
        "## What it holds",
        "",
        "| scene | split | images | pairs | view graph | geometric / semantic masks | unit | gates | licence |",
        "| --- | --- | --: | --: | --- | --- | --- | --- | --- |",
        *(_scene_line(name, _part(scenes, name)) for name in scenes),
        "",
        *_strata_lines(scenes),
        "",
        "## How it was made",
        "",
        f"* By {manifest['made_by']}; each scene by: {_makers(scenes)}.",
        "* Cameras are COLMAP models (`colmap/sparse/0`), without distortion; axes are OpenCV's (x right, "
        "y down, z forward); P of `train_data.json` and R, t of `views.txt` map world to camera.",
        "* Pixel (0, 0) has its centre at (0.5, 0.5).",
        "* `gates` is the grade of a reconstruction: good meets every quality gate, usable misses some. "
        "Outlier cameras, which jump away from their neighbours in a clip, are in no pair: "
        f"{_outliers(scenes)}.",
        f"* Pairs for training: more than {rules['least_pixels']} pixels go there and back at "
        f"{rules['long_side']} px, of which more than {rules['least_within']} come back within 10 px, in "
        "both directions.",
        f"* Pairs for testing: all that mix ground and air, others with {rules['least_inliers']} to "
        f"{rules['most_inliers']} verified inliers; where no inliers are known, those of the rule for "
        f"training with an overlap from {rules['least_overlap']} to {rules['most_overlap']}.",
        f"* Places in both splits: {_leaks(manifest)}.",
        "",
        "## What the files mean",
        "",
        f"* `depth/maps/*.h5`, dataset `depth`: z along the camera's axis, {depth['encoding']}, in the unit "
        "of the scene's model (see the table), 0 = none. Largest relative error of the encoding: "
        f"{depth['max_relative_error']:.2g}.",
        "* `depth/masks_geometric/*.png` (depth that other views confirm) and `depth/masks_semantic/*.png` "
        "(no sky, people and the like): 8 bits, **255 = keep, 0 = remove**. Depth is raw: apply the masks "
        "that you want.",
        "* `pairs.csv`: all pairs that were measured, a row for each direction; `kept` is 1 for those of "
        "the data set. `croissant.json` describes its columns.",
        "* `manifest.json`: size and SHA-256 of every file. `cuesta data verify` checks them, and that "
        "images, depth, cameras and lists agree.",
        "",
        "## Licence and privacy",
        "",
        f"* Licence of the data set: {said['licence']}",
        f"* Creator: {said['creator']}",
        f"* Consent of people shown, freedom of panorama: {said['consent']}",
        f"* Faces and number plates: {said['privacy']}",
        f"* Citation: {said['citation']}",
        "",
    ]
    write_text(path, "\n".join(lines))


def write_croissant(path: Path, manifest: Mapping[str, Json]) -> None:
    """Write the description for machines. Raises `UserError` as `atomic_file` does."""
    said, files = _part(manifest, "statement"), _part(manifest, "files")
    archives = [name for name in files if name.endswith(".tar")]
    lists = [
        name for name in ("train_data.json", "views.txt", "pairs_calibrated.txt") if name in files
    ]
    kinds = {".tar": "application/x-tar", ".json": "application/json", ".txt": "text/plain"}
    objects: list[Json] = [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "contentSize": f"{_part(files, name)['bytes']} B",
            "sha256": _part(files, name)["sha256"],
            "encodingFormat": kinds[Path(name).suffix],
        }
        for name in (*archives, *lists)
    ]
    for name, pattern, kind in (
        ("frames", "data/*/frames/*/*.jpg", "image/jpeg"),
        ("depth-maps", "data/*/depth/maps/*/*.h5", "application/x-hdf5"),
        ("masks", "data/*/depth/masks_*/*/*.png", "image/png"),
        ("pairs", "data/*/pairs.csv", "text/csv"),
    ):
        one: dict[str, Json] = {"@type": "cr:FileSet", "@id": name, "name": name}
        objects.append(one | {"encodingFormat": kind, "includes": pattern})
    content: dict[str, Json] = {
        "@context": _context(),
        "@type": "sc:Dataset",
        "conformsTo": f"{_CROISSANT}1.0",
        "name": said["name"],
        "description": said["description"],
        "license": said["licence"],
        "creator": {"@type": "sc:Organization", "name": said["creator"]},
        "citeAs": said["citation"],
        "version": "1.0.0",
        "distribution": objects,
        "recordSet": [_pairs_record()],
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def _pairs_record() -> Json:
    fields: list[Json] = [
        {
            "@type": "cr:Field",
            "@id": f"pairs-table/{name}",
            "name": name,
            "description": words,
            "dataType": kind,
            "source": {"fileSet": {"@id": "pairs"}, "extract": {"column": name}},
        }
        for name, (kind, words) in _COLUMNS.items()
    ]
    return {"@type": "cr:RecordSet", "@id": "pairs-table", "name": "pairs-table", "field": fields}


def _context() -> Json:
    plain: dict[str, Json] = {name: f"cr:{name}" for name in _TERMS}
    return {
        "@language": "en",
        "@vocab": _SCHEMA,
        "cr": _CROISSANT,
        "sc": _SCHEMA,
        "dct": "http://purl.org/dc/terms/",
        "rai": f"{_CROISSANT}RAI/",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
        **plain,
    }


def _scene_line(name: str, facts: dict[str, Json]) -> str:
    masks = _part(facts, "num_masks")
    words = (
        name,
        facts["split"],
        facts["num_images"],
        facts["num_pairs"],
        facts["view_graph"],
        f"{masks['geometric']} / {masks['semantic']}",
        facts["unit"],
        facts["verdict"],
        facts["licence"],
    )
    return f"| {' | '.join(str(word).replace('|', '/') for word in words)} |"


def _strata_lines(scenes: dict[str, Json]) -> list[str]:
    """Return a table of all pairs by stratum."""
    every = [_part(_part(scenes, name), "strata") for name in scenes]
    kinds, overlaps = list(every[0]), list(_part(every[0], next(iter(every[0]))))
    lines = [f"| pairs | {' | '.join(overlaps)} |", f"| --- |{' --: |' * len(overlaps)}"]
    for kind in kinds:
        counts = [
            sum(count for strata in every if isinstance(count := _part(strata, kind)[overlap], int))
            for overlap in overlaps
        ]
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} |")
    return lines


def _makers(scenes: dict[str, Json]) -> str:
    return ", ".join(sorted({str(_part(scenes, name)["made_by"]) for name in scenes}))


def _outliers(scenes: dict[str, Json]) -> str:
    found = []
    for name in scenes:
        images = _part(scenes, name)["outlier_cameras"]
        found += [f"{name}/{image}" for image in images] if isinstance(images, list) else []
    return ", ".join(found) or "none"


def _leaks(manifest: Mapping[str, Json]) -> str:
    leaks = manifest["leaks"]
    assert isinstance(leaks, list)
    told = [
        f"{leak['train']} and {leak['test']}: {leak['reason']}"
        for leak in leaks
        if isinstance(leak, dict)
    ]
    return "; ".join(told) or "none found (by GPS within 200 m, name, near-duplicate images)"


def _part(content: Mapping[str, Json], name: str) -> dict[str, Json]:
    part = content[name]
    assert isinstance(part, dict)
    return part

"""The verbs of `cuesta data`: get, make and check."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from cuesta.data.registry import DATA_SETS, get_data_set
from cuesta.errors import UserError

STREAM_NAMES = {
    "stream.mini": "synthetic clicks, 20,000 rows, known Bayes NE",
    "stream.small": "synthetic clicks, a million rows, known Bayes NE",
    "stream.large": "synthetic clicks, fifty million rows, known Bayes NE",
}
WORLD_NAMES = {
    "landmarks": "generated buildings with exact cameras, depth and labels; --size mini, small, train",
    "rooms": "generated rooms, the same",
}
DATA_NAMES = (
    WORLD_NAMES | {name: data_set.summary for name, data_set in DATA_SETS.items()} | STREAM_NAMES
)


def get(options: argparse.Namespace) -> int:
    """Fetch a registered data set and print where it is and under which terms."""
    folder = get_data_set(options.name)
    data_set = DATA_SETS[options.name]
    if options.json:
        about = {"folder": str(folder), "licence": data_set.licence, "citation": data_set.citation}
        print(json.dumps(about, indent=1))
    else:
        print(f"{folder}\nlicence: {data_set.licence}\ncite: {data_set.citation}")
    return 0


def make(options: argparse.Namespace) -> int:
    """Generate a stream and print the best that any model can reach on it, or a set of scenes."""
    if options.name in WORLD_NAMES:
        return _make_world(options)
    if options.name not in STREAM_NAMES:
        known = ", ".join([*STREAM_NAMES, *WORLD_NAMES])
        raise UserError(f"nothing to make is called {options.name!r}; choose one of {known}")
    from cuesta.data.streams import StreamConfig, stream_folder, write_stream

    size = options.name.removeprefix("stream.")
    config = dataclasses.replace(getattr(StreamConfig, size)(), seed=options.seed)
    folder = Path(options.out) if options.out else stream_folder(options.name)
    best = write_stream(config, folder)
    if options.json:
        splits = {split: bayes._asdict() for split, bayes in best.items()}
        print(json.dumps({"folder": str(folder), "bayes": splits}, indent=1))
        return 0
    print(folder)
    for split, bayes in best.items():
        print(f"{split:10}  {bayes.num_rows:,} rows  Bayes NE {bayes.normalised_entropy:.4f}")
    return 0


def _make_world(options: argparse.Namespace) -> int:
    """Generate scenes and print their folders; what is there already is not made again."""
    from cuesta.cli.stages import show_stages
    from cuesta.data.registry import data_root
    from cuesta.data.worlds.make import make_landmarks, make_rooms

    make_scenes = {"landmarks": make_landmarks, "rooms": make_rooms}[options.name]
    name = f"{options.name}.{options.size}"
    out = Path(options.out) if options.out else data_root() / name
    with show_stages(sys.stderr) as on_progress:
        scenes = make_scenes(
            out,
            options.size,
            seed=options.seed,
            preset=options.preset,
            has_lidar=options.lidar,
            on_progress=lambda done, total, _: on_progress(options.name, done, total),
        )
    folders = [str(scene.root) for scene in scenes]
    print(json.dumps({"scenes": folders}, indent=1) if options.json else "\n".join(folders))
    return 0


def check(options: argparse.Namespace) -> int:
    """Print every violation in a log; the status is 2 if there is one."""
    from cuesta.data.check import check as violations_in

    schema = options.schema
    for path in options.paths:
        if not Path(path).exists():
            raise UserError(f"{path}: no such file or folder; name Parquet files or their folder")
    if schema is None:
        folder = Path(options.paths[0])
        schema = (folder if folder.is_dir() else folder.parent) / "schema.toml"
    violations = violations_in(options.paths, schema, limit=options.limit)
    if options.json:
        fields = [dataclasses.asdict(violation) for violation in violations]
        print(json.dumps(fields, indent=1, default=str))
    else:
        for violation in violations:
            print(violation)
        hidden = {v.kind: v.total for v in violations}
        shown = {kind: sum(v.kind == kind for v in violations) for kind in hidden}
        for kind, total in hidden.items():
            if total > shown[kind]:
                print(f"… and {total - shown[kind]:,} more of kind: {kind}")
        if not violations:
            print(f"{', '.join(options.paths)}: nothing is wrong", file=sys.stderr)
    return 2 if violations else 0

"""The verb masks: what other views confirm of depth, and what is sky or moved, as published masks."""

from __future__ import annotations

import argparse
import json
import sys

from cuesta.cli.fusing import num_bytes
from cuesta.cli.stages import show_stages
from cuesta.cli.verbs import print_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `cuesta masks` takes beside its settings; the parser brings no --help of its own."""
    parser.add_argument("scene", nargs="?", help="a scene with depth maps")
    parser.add_argument("--memory", default="4G", help="what all may take (%(default)s)")
    parser.add_argument("-h", "--help", action="store_true", help="list the settings")
    parser.set_defaults(masks_parser=parser)


def masks(options: argparse.Namespace) -> int:
    """Write the geometric and the semantic masks of a scene and print what they keep."""
    from cuesta.engine.override import override
    from cuesta.vision.terrasky3d.masks import MasksSettings, make_masks

    settings = override(MasksSettings(), options.settings)
    if options.help:
        options.masks_parser.print_help()
        print_settings(settings)
        return 0
    if options.scene is None:
        options.masks_parser.error("name a scene; `cuesta depth` gives it depth maps")
    with show_stages(sys.stderr) as on_progress:
        result = make_masks(
            options.scene, settings, memory=num_bytes(options.memory), on_progress=on_progress
        )
    about = result.to_json()
    if options.json:
        print(json.dumps(about, indent=1))
    else:
        print(f"geometric masks keep {about['geometric']['mean_kept']:.0%} of the pixels")
        print(
            f"semantic masks ({about['semantic']['source']}) keep {about['semantic']['mean_kept']:.0%}"
        )
        for note in result.semantic.notes:
            print(f"  note: {note}")
    return 0

"""The verb depth: depth and normals of every image of a posed scene."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cuesta.cli.fusing import num_bytes
from cuesta.cli.stages import show_stages
from cuesta.cli.verbs import print_settings
from cuesta.errors import UserError

if TYPE_CHECKING:
    from cuesta.vision.terrasky3d.depth import DepthResult
    from cuesta.vision.terrasky3d.settings import StereoSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `cuesta depth` takes beside its settings; the parser brings no --help of its own."""
    parser.add_argument("scene", nargs="?", help="a scene, or posed images in another form")
    parser.add_argument(
        "--out", help="folder of a new scene of the same images (the scene itself is given depth)"
    )
    parser.add_argument("--images", help="with --out: the folder of images (beside the poses)")
    parser.add_argument(
        "--refine-poses",
        action="store_true",
        help="with --out: adjust the given poses to what the images show; frame and unit stay",
    )
    parser.add_argument(
        "--engine", choices=("patchmatch",), default="patchmatch", help="(%(default)s)"
    )
    parser.add_argument(
        "--recipe", choices=("laptop", "fast", "debug"), default="laptop", help="(%(default)s)"
    )
    parser.add_argument("--memory", default="4G", help="what all may take (%(default)s)")
    parser.add_argument("-h", "--help", action="store_true", help="list the settings")
    parser.set_defaults(depth_parser=parser)


def depth(options: argparse.Namespace) -> int:
    """Give a scene depth and print what came of it; the status is 1 where images stay without."""
    settings = _settings(options)
    if options.help:
        options.depth_parser.print_help()
        print_settings(settings)
        return 0
    if options.scene is None:
        options.depth_parser.error("name a scene; `cuesta reconstruct` makes one of photos")
    if options.images and not options.out:
        raise UserError(f"--images {options.images} goes with --out, the folder of a new scene")
    if options.refine_poses and not options.out:
        raise UserError("--refine-poses goes with --out, the folder of a new scene")
    from cuesta.vision.terrasky3d.adopt import adopt
    from cuesta.vision.terrasky3d.depth import make_depth

    memory, scene = num_bytes(options.memory), Path(options.scene)
    with show_stages(sys.stderr) as on_progress:
        if options.out:
            on_progress("images", 0, 0)
            scene = adopt(
                scene,
                options.out,
                images=options.images,
                refines_poses=options.refine_poses,
                seed=settings.seed,
                on_progress=on_progress,
            ).root
        result = make_depth(scene, settings, memory=memory, on_progress=on_progress)
    if options.json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        _print(result)
    return 1 if result.refused else 0


def _settings(options: argparse.Namespace) -> StereoSettings:
    from cuesta.engine.override import override
    from cuesta.vision.terrasky3d import depth_recipes

    settings: StereoSettings = getattr(depth_recipes, options.recipe)()
    try:
        return override(settings, options.settings)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"patch: {error}") from error


def _print(result: DepthResult) -> None:
    shares = [image["confirmed_by_two"] for image in result.images.values()]
    print(
        f"{len(result.images)} images with depth, {sum(shares) / len(shares):.0%} of their pixels "
        f"confirmed by two views; {result.seconds / len(result.images):.1f} s an image"
    )
    for name, reason in result.refused.items():
        print(f"  without depth: {name}: {reason}")
    print(f"depth: {(result.scene.root / 'depth' / 'maps').resolve()}")
    print(f"COLMAP's workspace: {(result.scene.root / 'colmap' / 'dense').resolve()}")
    print(f"report: {result.to_json()['report']}")

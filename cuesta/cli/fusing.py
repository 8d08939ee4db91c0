"""The verb fuse: depth maps that agree become one cloud, with its report."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cuesta.cli.stages import show_stages
from cuesta.cli.verbs import print_settings
from cuesta.errors import UserError

if TYPE_CHECKING:
    from cuesta.vision.terrasky3d.fusion import FusedCloud

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `cuesta fuse` takes beside its settings; the parser brings no --help of its own."""
    parser.add_argument("scene", nargs="?", help="a scene with depth maps")
    parser.add_argument("--out", help="the cloud, .ply or .las (fused.ply in the scene)")
    parser.add_argument("--memory", default="4G", help="what all may take (%(default)s)")
    parser.add_argument("--mesh", action="store_true", help="also mesh it: NAME_mesh.ply beside it")
    parser.add_argument("-h", "--help", action="store_true", help="list the settings")
    parser.set_defaults(fuse_parser=parser)


def fuse(options: argparse.Namespace) -> int:
    """Fuse the depth maps of a scene and print what came of it."""
    from cuesta.engine.override import override
    from cuesta.vision.terrasky3d import fusion

    settings = override(fusion.FusionSettings(), options.settings)
    if options.help:
        options.fuse_parser.print_help()
        print_settings(settings)
        return 0
    if options.scene is None:
        options.fuse_parser.error("name a scene; `cuesta depth` gives it depth maps")
    from cuesta.vision.terrasky3d.cloud_report import about_cloud, write_cloud_report
    from cuesta.vision.terrasky3d.surface import write_mesh

    memory = num_bytes(options.memory)
    if options.mesh and options.out and Path(options.out).suffix.lower() != ".ply":
        raise UserError(f"{options.out}: a mesh needs normals, which a .las has not; name a .ply")
    with show_stages(sys.stderr) as on_progress:
        fused = fusion.fuse(
            options.scene, options.out, settings, memory=memory, on_progress=on_progress
        )
        on_progress("report", 0, 1)
        write_cloud_report(fused, settings)
        if options.mesh:
            on_progress("mesh", 0, 1)
            write_mesh(fused.path, mesh_of(fused.path))
        fusion.renew_manifest(fused.dense)
    if options.json:
        print(json.dumps(about_cloud(fused, settings), indent=1))
    else:
        _print(fused, has_mesh=options.mesh)
    return 0


def num_bytes(text: str) -> int:
    """Return the bytes of a size such as 700M or 4G, in powers of 1024.

    >>> num_bytes("1.5K")
    1536
    """
    found = re.fullmatch(
        r"(\d{1,12}(?:\.\d{1,6})?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE
    )
    if found is None:
        raise UserError(f"--memory {text!r} is no size; write 700M or 4G")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def mesh_of(cloud: Path) -> Path:
    """Return where the mesh of a cloud belongs."""
    return cloud.with_name(f"{cloud.stem}_mesh.ply")


def _print(fused: FusedCloud, *, has_mesh: bool) -> None:
    """Print how much was fused and where it is."""
    num_depth = sum(item.num_depth for item in fused.coverage)
    num_kept = sum(item.num_kept for item in fused.coverage)
    facts = fused.facts
    print(
        f"{facts.num_points:,} points of {len(fused.views)} images; "
        f"{100 * num_kept / max(num_depth, 1):.0f} % of their depth is consistent"
    )
    foreign = sum(item.is_foreign for item in fused.coverage)
    if foreign:
        print(f"  note: {foreign} geometric masks are not ours and were used as they are")
    print(f"cloud: {fused.path.resolve()}")
    if has_mesh:
        print(f"mesh: {mesh_of(fused.path).resolve()}")
    print(f"report: {fused.path.with_suffix('.html').resolve()}")

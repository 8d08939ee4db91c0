"""The flags of `cuesta train` that say where tables lie, and how what ranks exchange travels."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cuesta.errors import UserError

if TYPE_CHECKING:
    from cuesta.rec.neo.sharded import ShardedOptions
    from cuesta.rec.neo.tiers import Tiers

_FLAGS = ("fast_share", "host_share", "table_files", "leaves_first", "wire")
_POLICIES = ("longest-ago", "least-often")
_WIRES = ("32", "16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--fast-share",
        type=float,
        metavar="SHARE",
        help="tables are larger than the memory that computes: hold this share of their rows there",
    )
    parser.add_argument(
        "--table-files", metavar="FOLDER", help="the rest is in files here, on an SSD"
    )
    parser.add_argument(
        "--host-share",
        type=float,
        metavar="SHARE",
        help="with --table-files on a GPU: hold this share in host memory between",
    )
    parser.add_argument(
        "--leaves-first",
        choices=_POLICIES,
        help="the row that leaves for another: used longest ago, or least often (longest-ago)",
    )
    parser.add_argument(
        "--wire",
        choices=_WIRES,
        help="what ranks exchange travels in 32 bits, or in 16: float16 forward, bfloat16 back (32)",
    )


def sharded_options(options: argparse.Namespace) -> ShardedOptions:
    """Return what the flags say. Raises `UserError` where they do not go together."""
    from cuesta.rec.neo.exchange import Wire
    from cuesta.rec.neo.sharded import ShardedOptions

    wire = Wire(forward="float16", backward="bfloat16") if options.wire == "16" else Wire()
    return ShardedOptions(wire=wire, tiers=_tiers_of(options))


def _tiers_of(options: argparse.Namespace) -> Tiers | None:
    if options.fast_share is None:
        if options.table_files or options.host_share or options.leaves_first:
            raise UserError("say with --fast-share what share of the rows fast memory holds")
        return None
    from cuesta.rec.neo.tiers import Tiers

    return Tiers(
        fast=options.fast_share,
        folder=None if options.table_files is None else Path(options.table_files),
        host=options.host_share or 0.0,
        policy="lfu" if options.leaves_first == "least-often" else "lru",
    )


def words_of(options: argparse.Namespace) -> list[str]:
    """Return the flags as they were given, files with their whole path."""
    return list(_words(options))


def _words(options: argparse.Namespace) -> Iterator[str]:
    for flag in _FLAGS:
        value = getattr(options, flag)
        if value is not None:
            yield f"--{flag.replace('_', '-')}"
            yield str(Path(value).resolve()) if flag == "table_files" else str(value)

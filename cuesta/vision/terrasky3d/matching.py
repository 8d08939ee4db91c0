"""Matching: verified correspondences of the chosen pairs, in a copy of the features' database."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pycolmap

from cuesta.data.files import atomic_file, write_text
from cuesta.vision.terrasky3d.native import call
from cuesta.vision.terrasky3d.pairs import choose_pairs
from cuesta.vision.terrasky3d.settings import MatchSettings

VIEW_GRAPH_INLIERS = 30


def match(
    features: Path,
    folder: Path,
    photos: Sequence[dict[str, Any]],
    settings: MatchSettings,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write `folder/database.db` and `folder/pairs.txt`; return how the images hang together.

    Each pair's random choices have the same seed, so that results depend neither on the order in
    which threads take pairs nor on an interruption; pairs that are matched already are skipped. The
    result holds `rules` (pairs by rule), `num_pairs`, `num_verified`, `inliers` ([first, second,
    count] of pairs with 30 at least: the view graph) and `parts` (the connected parts, largest first).
    """
    database = folder / "database.db"
    if not database.exists():
        with atomic_file(database) as temporary:
            shutil.copyfile(features / "database.db", temporary)
    pairs, rules = choose_pairs(database, photos, settings, seed)
    write_text(folder / "pairs.txt", "".join(f"{first} {second}\n" for first, second in pairs))
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = folder / "pairs.txt"
    verification = pycolmap.TwoViewGeometryOptions()
    verification.min_num_inliers = settings.min_num_inliers
    verification.ransac.random_seed = seed
    with pycolmap.Database.open(database) as opened:
        call(
            lambda token: pycolmap.match_image_pairs(
                database, matching, pairing, verification, pycolmap.Device.cpu, token
            ),
            lambda: on_progress(opened.num_matched_image_pairs(), len(pairs)),
        )
        on_progress(len(pairs), len(pairs))
        inliers = _verified_inliers(opened)
    graph = [pair for pair in inliers if pair[2] >= VIEW_GRAPH_INLIERS]
    return {
        "rules": rules,
        "num_pairs": len(pairs),
        "num_verified": len(inliers),
        "inliers": graph,
        "parts": connected_parts([photo["name"] for photo in photos], inliers),
    }


def connected_parts(names: Sequence[str], pairs: Sequence[tuple[str, str, int]]) -> list[list[str]]:
    """Return the images in the parts of the graph of pairs, the largest first.

    >>> connected_parts(["a", "b", "c"], [("a", "b", 40)])
    [['a', 'b'], ['c']]
    """
    root = {name: name for name in names}

    def find(name: str) -> str:
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for first, second, _ in pairs:
        root[find(first)] = find(second)
    sizes = Counter(find(name) for name in names)
    parts = [[name for name in sorted(names) if find(name) == top] for top in sizes]
    return sorted(parts, key=lambda part: (-len(part), part))


def _verified_inliers(database: pycolmap.Database) -> list[tuple[str, str, int]]:
    """Return (first, second, inliers) of every verified pair, sorted by name."""
    names = {image.image_id: image.name for image in database.read_all_images()}
    found = []
    for pair_id, count in zip(*database.read_two_view_geometry_num_inliers(), strict=True):
        first, second = sorted(names[i] for i in pycolmap.pair_id_to_image_pair(pair_id))
        found.append((first, second, int(count)))
    return sorted(found)

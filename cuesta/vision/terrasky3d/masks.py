"""`make_masks`: both kinds of masks of a scene, published apart from its raw depth, so that users choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from cuesta.vision.terrasky3d.claim import only_run
from cuesta.vision.terrasky3d.dense_maps import open_dense
from cuesta.vision.terrasky3d.fusion import renew_manifest, views_in_memory
from cuesta.vision.terrasky3d.geometric_masks import (
    MaskCoverage,
    MaskSettings,
    write_geometric_masks,
)
from cuesta.vision.terrasky3d.semantic_masks import (
    SemanticMasks,
    SemanticSettings,
    make_semantic_masks,
)
from cuesta.vision.terrasky3d.source_views import source_views
from cuesta.vision.terrasky3d.stages import OnProgress, ignore_stages


@dataclass(frozen=True, kw_only=True)
class MasksSettings:
    """Say how the two kinds of masks of a scene are made."""

    name: str = "masks"
    geometric: MaskSettings = field(default_factory=MaskSettings)
    semantic: SemanticSettings = field(default_factory=SemanticSettings)


class Masks(NamedTuple):
    """Hold what the geometric masks keep, view by view, and what the semantic ones do."""

    geometric: list[MaskCoverage]
    semantic: SemanticMasks

    def to_json(self) -> dict[str, Any]:
        """Return it in plain data, for `--json`."""
        kept = {view.name: view.num_kept / view.num_pixels for view in self.geometric}
        return {
            "geometric": {
                "mean_kept": round(sum(kept.values()) / len(kept), 6),
                "images": {name: round(share, 6) for name, share in kept.items()},
            },
            "semantic": self.semantic.to_json(),
        }


def make_masks(
    path: str | Path,
    settings: MasksSettings,
    *,
    memory: int,
    on_progress: OnProgress = ignore_stages,
) -> Masks:
    """Write the masks of the scene at `path`, and its manifest anew; what is up to date is not made again.

    Raises `UserError` as `open_dense`, `write_geometric_masks` and `make_semantic_masks`.
    """
    settings.semantic.check()
    dense = open_dense(path)
    with only_run(dense.scene):
        read = lru_cache(maxsize=views_in_memory(dense, memory))(dense.read)
        sources = source_views(dense, settings.geometric.num_sources, read=read)
        geometric = write_geometric_masks(
            dense, settings.geometric, sources, read=read, on_progress=on_progress
        )
        semantic = make_semantic_masks(dense.scene, settings.semantic, on_progress)
        renew_manifest(dense)
    return Masks(geometric, semantic)

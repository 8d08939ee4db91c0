"""The libraries we are measured against: which of them can be imported here, and how to get the others."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from cuesta.cli.bench.harness import Findings


@final
@dataclass(frozen=True)
class Peer:
    """Name a library and the module that it is imported as."""

    name: str
    module: str


FBGEMM = Peer("FBGEMM", "fbgemm_gpu")
TORCHREC = Peer("TorchRec", "torchrec")


def importable(peers: Sequence[Peer], findings: Findings, *, bench: str) -> list[Peer]:
    """Return those that can be imported, and note the others with what to do about them."""
    found, missing = [], []
    for peer in peers:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(peer.module)
            found.append(peer)
        except (ImportError, OSError) as error:
            missing.append(f"{peer.name} ({str(error).splitlines()[0]})")
    if missing:
        findings.note(
            f"not measured: {', '.join(missing)} cannot be imported here; run `make peers`, then "
            f"`.venv-peers/bin/cuesta bench {bench}`"
        )
    return found

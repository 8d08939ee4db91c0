"""The libraries we are measured against: which can be imported here, how to get the others."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
            with quietly():
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


@contextmanager
def quietly() -> Iterator[None]:
    """Silence what libraries warn of when they are first used; errors still come through."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)

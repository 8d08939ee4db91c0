"""`RayReader`: a reader of the `ReaderService` as an actor of Ray, on any machine of the cluster at RAY_ADDRESS.

Its rows travel through Ray's object store in the same three arrays, and Ray lets it be a few batches ahead. The
machines need cuesta and the log at the same path. The data sets of Ray Data itself are not used: their batches are
not a function of (seed, epoch, position), and a run could not resume exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import numpy as np

from cuesta.data.order import Order
from cuesta.data.parts import Allocate, Part
from cuesta.data.reader import Reader
from cuesta.data.reader_service import SLOTS
from cuesta.errors import UserError


@final
class RayReader:
    """Hold the consumer's end of one actor; Ray starts here if it is not yet there."""

    def __init__(self, reader: Reader, number: int, of: int) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError(
                "Ray is not installed; pip install 'cuesta[ray]' brings it, or leave out "
                "--task.readers-on"
            ) from error
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        self._ray = ray
        self._name = f"reader {number + 1} of {of} on Ray"
        self._actor = ray.remote(num_cpus=1)(_Actor).remote(reader, number, of)
        self._parts: Iterator[Any] = iter(())  # of Ray's references

    def begin(self, order: Order) -> None:
        """Let it read in this order."""
        method = self._actor.parts.options(
            num_returns="streaming", _generator_backpressure_num_objects=SLOTS
        )
        self._parts = method.remote(order)

    def next_part(self, batch: str) -> Part:
        """Return its rows of the next batch; raise `UserError` if it ends instead."""
        try:
            part: Part = self._ray.get(next(self._parts))
            return part
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)  # what the actor raised, if it is not dead
            if isinstance(cause, UserError):
                raise UserError(f"{self._name}, at {batch}: {cause}") from None
            reason = f"{type(cause).__name__}: {cause}" if cause else str(error).splitlines()[0]
            raise UserError(
                f"{self._name} ended while {batch} waited for it ({reason}); train on with --resume"
            ) from None

    def stop(self) -> None:
        """End the actor."""
        if self._ray.is_initialized():
            self._ray.kill(self._actor)


class _Actor:
    def __init__(self, reader: Reader, number: int, of: int) -> None:
        self._reader, self._number, self._of = reader, number, of

    def parts(self, order: Order) -> Iterator[Part]:
        def memory() -> Allocate:
            return np.empty

        yield from self._reader.parts(order, self._number, self._of, memory)

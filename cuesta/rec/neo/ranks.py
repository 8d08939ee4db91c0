"""`Ranks`: the one collective that sharded tables need, an exchange of any sizes between all ranks of a group.

Reduce-scatter and all-gather are exchanges with a sum before or a copy after. Done so, sums are in the order of
ranks and in float32 whatever travels, which gloo and NCCL do not promise (Neo, ISCA 2022, collectives); bytes on
the wire are those of the ring algorithms. Ranks that lie in several nodes know the groups of the two levels, which a
`DeviceMesh` makes: what is summed inside a node crosses to other nodes once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from cuesta.data.files import atomic_folder
from cuesta.engine.waits import Waits
from cuesta.errors import UserError


class RankLostError(RuntimeError):
    """Say that an exchange failed: another rank has ended, or cannot be reached."""


class _ToldError(UserError):
    """Be an error that all ranks know already."""


class Arriving(Protocol):
    """Hold what is on its way."""

    def wait(self) -> Tensor:
        """Return what has arrived."""
        ...


class Levels(NamedTuple):
    """Hold the ranks of this one's node, in order, and those that have its place in every node, node after node."""

    inside: Ranks
    across: Ranks


class Ranks:
    """Exchange tensors within a process group; without one, this process is all there is.

    Collectives of a group must be called by all its ranks in the same order. They raise `RankLostError`. `waits` count
    what training waited for. `levels` are None if all ranks are equally near; otherwise rank r has the place r % n of
    node r // n, where a node has n ranks.

    >>> Ranks().exchange(torch.tensor([1.0, 2.0]), [2], [2]).wait().tolist()
    [1.0, 2.0]
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, levels: Levels | None = None
    ) -> None:
        self._group, self.levels = group, levels
        self.rank = 0 if group is None else group.rank()
        self.size = 1 if group is None else group.size()
        is_nccl = group is not None and group.name() == "nccl"
        self.device = torch.device("cuda" if is_nccl else "cpu")  # of what is exchanged
        self.waits = Waits()

    @classmethod
    def of_mesh(cls, mesh: DeviceMesh) -> Ranks:
        """Return the ranks of a mesh of one axis, or of two, nodes and the ranks of each, that has all processes.

        Raises `ValueError` for another mesh.
        """
        if mesh.ndim == 1:
            return cls(mesh.get_group())
        if mesh.ndim != 2 or mesh.mesh.flatten().tolist() != list(range(dist.get_world_size())):
            raise ValueError(
                f"a mesh of nodes and their ranks has two axes and all processes in order, got {mesh}"
            )
        if 1 in mesh.shape:
            return cls(dist.group.WORLD)
        across, inside = (Ranks(mesh.get_group(axis)) for axis in range(2))
        return cls(dist.group.WORLD, Levels(inside, across))

    def exchange(
        self, values: Tensor, sizes: Sequence[int], their_sizes: Sequence[int]
    ) -> Arriving:
        """Send `sizes[r]` of the values [N], one after another, to each rank r, and get `their_sizes[r]` from it.

        Any dtype: what travels is bytes.
        """
        if self._group is None:
            return _Arrived(values)
        arriving = values.new_empty(sum(their_sizes))
        width = values.itemsize
        sent, received = (
            each.contiguous().view(torch.uint8) if each.numel() else each.view(torch.uint8)
            for each in (values, arriving)
        )
        work = self._group.alltoall_base(
            received, sent, [size * width for size in their_sizes], [size * width for size in sizes]
        )
        return _OnTheWay(work, arriving, sent)

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the values [N] of every rank, of any sizes, in the order of ranks."""
        size = torch.tensor([values.numel()], device=values.device)
        sizes = self.exchange(size.repeat(self.size), [1] * self.size, [1] * self.size).wait()
        arriving = self.exchange(
            values.repeat(self.size), [values.numel()] * self.size, sizes.tolist()
        )
        return list(arriving.wait().split(sizes.tolist()))

    def add(self, values: Tensor) -> None:
        """Replace values by their sum over all ranks, which is equal on all to the bit."""
        if self._group is not None:
            _wait(self._group.allreduce([values]))

    def together(self, work: Callable[[], None] | None) -> None:
        """Do this rank's work, if it has some; where one fails, raise a `UserError` on all that says which and why."""
        if self.size == 1:
            if work is not None:
                work()
            return
        failure: Exception | None = None
        try:
            if work is not None:
                work()
        except (UserError, OSError, SafetensorError) as error:
            failure = error
        begin = "" if isinstance(failure, _ToldError) else f"rank {self.rank}: "
        said = self.say("" if failure is None else f"{begin}{failure}")
        words = next((words for words in said if words), None)
        if words is not None:
            raise _ToldError(words) from failure

    @contextmanager
    def folder(self, path: Path, *, overwrite: bool) -> Iterator[Path]:
        """Yield a temporary folder that all ranks write to; the first makes it `path` when all are done."""
        with ExitStack() as stack:
            place = ""

            def begin() -> None:
                nonlocal place
                place = str(stack.enter_context(atomic_folder(path, overwrite=overwrite)))

            self.together(begin if self.rank == 0 else None)
            place = self.say(place)[0]
            failure: Exception | None = None
            try:
                yield Path(place)
            except (UserError, OSError, SafetensorError) as error:
                failure = error

            def end() -> None:
                if failure is not None:
                    raise failure

            self.together(end)
            self.together(stack.pop_all().close if self.rank == 0 else None)

    def say(self, text: str) -> list[str]:
        """Return what every rank says, in the order of ranks."""
        said = torch.frombuffer(bytearray(text.encode() + b" "), dtype=torch.uint8).to(self.device)
        return [bytes(each.tolist())[:-1].decode() for each in self.gather(said)]


class _Arrived:
    def __init__(self, values: Tensor) -> None:
        self._values = values

    def wait(self) -> Tensor:
        return self._values


class _OnTheWay:
    def __init__(self, work: dist.Work, arriving: Tensor, sent: Tensor) -> None:
        self._work, self._arriving = work, arriving
        self._sent = sent  # kept until it is sent

    def wait(self) -> Tensor:
        _wait(self._work)
        return self._arriving


def _wait(work: dist.Work) -> None:
    try:
        work.wait()
    except RuntimeError as error:
        raise RankLostError(str(error)) from error

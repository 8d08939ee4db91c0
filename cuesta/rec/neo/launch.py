"""The same recipe on many ranks: `Ranked`, a `World` whose ranks share tables by a plan and the rows of every batch.

A batch is that of one process, and so are the loss and the update: each rank takes its rows, and what it gives is its
part of the mean over all. Every rank decodes the log and gathers its own rows of it. Started by `torchrun`, by Ray, or
in threads: what makes a rank is a process group.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from cuesta.data.batch import RankingBatch
from cuesta.engine.task import BatchType, Evaluation, Task, TaskConfig
from cuesta.engine.tensor_files import kept, load_weights, save_tensors
from cuesta.engine.world import World
from cuesta.errors import UserError
from cuesta.nn import EmbeddingBags
from cuesta.nn.embedding import unallocated_tables
from cuesta.ops import SGD, Adagrad
from cuesta.ragged import RaggedFeatures
from cuesta.rec.baselines.inputs import Standardise
from cuesta.rec.baselines.task import RankingTask
from cuesta.rec.neo.below import Below
from cuesta.rec.neo.checkpoint import held_tables, load_tables, load_whole, write_tables
from cuesta.rec.neo.cluster import Cluster
from cuesta.rec.neo.costs import SCHEMES, Scheme
from cuesta.rec.neo.dense import add_gradients
from cuesta.rec.neo.faults import telling_others
from cuesta.rec.neo.plan import Plan
from cuesta.rec.neo.planner import PlannerSettings, make_plan
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.requests import observed_workload
from cuesta.rec.neo.sharded import ShardedEmbeddingBags, ShardedOptions
from cuesta.rec.neo.tiers import TieredEmbeddingBags, Tiers

_ROW_SCHEMES: tuple[Scheme, ...] = ("table", "row", "data", "table_row")
_AHEAD = 2  # batches that are asked for while one trains
_PATIENCE = timedelta(hours=6)  # of ranks that wait while the first evaluates


class Ranked(World):
    """Be the ranks of a process group, or this process alone, which can read what any ranks wrote.

    Tables are spread by `plan`, or as the planner finds best for the ids of the first batches. `savers`, the same ranks
    in a group of their own, agree on what is saved while these train; without them training waits for saves, and so it
    does where `options.tiers` put tables into files, which are not copied. Losses are parts of a sum, whatever
    `options.gradient` says.
    """

    def __init__(
        self,
        ranks: Ranks,
        plan: Plan | None = None,
        ranks_per_node: int = 0,
        savers: Ranks | None = None,
        options: ShardedOptions | None = None,
    ) -> None:
        super().__init__()
        self.ranks, self.plan = ranks, plan
        self.rank, self.size = ranks.rank, ranks.size
        self.waits = ranks.waits
        self.options = replace(options or ShardedOptions(), gradient="sum")
        tiers = self.options.tiers
        is_in_files = tiers is not None and tiers.folder is not None
        self.saves_apart = (savers is not None or ranks.size == 1) and not is_in_files
        self._savers = savers or ranks
        self._ranks_per_node = ranks_per_node or ranks.size

    def alone(self) -> World:
        """Return the world of this process by itself."""
        return Ranked(Ranks())

    def build(self, config: TaskConfig, *, seed: int, device: torch.device) -> Task[Any]:
        """Return the task, its tables spread and its batches shared out."""
        tiers = self.options.tiers
        lies_elsewhere = self.size > 1 or tiers is not None
        with unallocated_tables() if lies_elsewhere else nullcontext():
            task = config.build(seed=seed, device=device)
        tables = [each for each in task.model.modules() if isinstance(each, EmbeddingBags)]
        if self.plan is not None:
            shapes = {t.name: (t.num_rows, t.dim) for bags in tables for t in bags.tables}
            self.plan.check(shapes, self.size)
        if self.size == 1:
            if tiers is not None:
                _put_into_tiers(task.model, tiers, device)
            return task
        assert isinstance(task, RankingTask)
        return _SharedTask(task, self)

    def batches(self, task: Task[BatchType], epoch: int, start: int) -> Iterator[BatchType]:
        """Yield the batches of an epoch; what a shared task waits for it counts by itself."""
        if self.size > 1:
            return task.train_batches(epoch, start)
        batches = super().batches(task, epoch, start)
        is_plain = self.options.tiers is None
        return batches if is_plain else _with_rows_ahead(task.model, batches)

    def first(self, work: Callable[[], None]) -> None:
        """Let the first rank do this; its error is raised on all."""
        self.ranks.together(work if self.rank == 0 else None)

    def add(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum of each number over all ranks."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.ranks.device)
        with self.waits.during("losses"):
            self.ranks.add(sums)
        return sums.tolist()

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over all ranks."""
        add_gradients(parameters, self.ranks)

    @contextmanager
    def folder(self, path: Path) -> Iterator[Path]:
        """Yield a temporary folder that all ranks write to; it becomes `path`, replaced, when all are done."""
        with self._savers.folder(path, overwrite=True) as temporary:
            yield temporary

    def snapshot(self, model: nn.Module, *, copies: bool) -> Callable[[Path], None]:
        """Return what writes tables that are spread into tables/NAME, all else into model.safetensors."""
        spread = {name: held_tables(bags, copies=copies) for name, bags in _spread(model)}
        begins = tuple(f"{name}." for name in spread)
        state = model.state_dict() if self.rank == 0 else {}
        rest = {name: each for name, each in state.items() if not name.startswith(begins)}
        rest = kept(rest, copies=copies)

        def write(folder: Path) -> None:
            for name, tables in spread.items():
                write_tables(tables, folder / "tables" / name, self._savers)
            if self.rank == 0:
                save_tensors(folder / "model.safetensors", rest)

        return write

    def load_model(self, folder: Path, model: nn.Module) -> None:
        """Read what any number of ranks wrote, by whatever plan."""
        path = folder / "model.safetensors"
        tables = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, (EmbeddingBags, TieredEmbeddingBags, ShardedEmbeddingBags))
            and not isinstance(_parent(model, name), ShardedEmbeddingBags)
        }
        for name, bags in tables.items():
            if (folder / "tables" / name).is_dir():
                load_tables(bags, folder / "tables" / name)
            else:
                load_whole(bags, path, f"{name}.")
        load_weights(path, model, without=tuple(f"{name}." for name in tables))

    def plan_for(self, name: str, bags: EmbeddingBags, batches: Iterable[Any]) -> Plan:
        """Return the plan given, or the best by what the first batches look up."""
        if self.plan is not None:
            return self.plan
        cluster = Cluster(
            world_size=self.size, ranks_per_node=self._ranks_per_node,
            below=_below(self.options.tiers),
        )  # fmt: skip
        exact = isinstance(bags.optimizer, (SGD, Adagrad))
        schemes = SCHEMES if exact else _ROW_SCHEMES
        if self.options.tiers is not None:  # copies would lie in fast memory as a whole
            schemes = tuple(scheme for scheme in schemes if scheme != "data")
        settings = PlannerSettings(schemes=schemes)
        return make_plan(observed_workload(name, bags, batches), cluster, settings).plan


def _below(tiers: Tiers | None) -> Below:
    """Return what the planner is told of tiers."""
    if tiers is None:
        return Below()
    host = 1.0 if tiers.folder is None else tiers.host
    return Below(fast_share=tiers.fast, host_share=host, policy=tiers.policy)


@dataclass(frozen=True)
class _Share:
    """Hold a rank's rows, which may be none, of a batch of `num_rows`."""

    batch: RankingBatch
    num_rows: int


class _SharedTask:
    """Be a task of which each rank has its rows of every batch, and its parts of the tables."""

    def __init__(self, task: RankingTask, world: Ranked) -> None:
        self._task, self._ranks = task, world.ranks
        self.model = task.model
        self.num_train_batches = task.num_train_batches
        for name, bags in list(self.model.named_modules()):
            if isinstance(bags, EmbeddingBags):
                plan = world.plan_for(name, bags, task.train_batches(0, 0))
                sharded = ShardedEmbeddingBags(
                    bags.tables, bags.optimizer, plan, world.ranks,
                    storage=bags.storage, seed=bags.seed, options=world.options,
                )  # fmt: skip
                setattr(_parent(self.model, name), name.rpartition(".")[2], sharded)
            elif isinstance(bags, Standardise):
                bags.add = world.ranks.add

    def train_batches(self, epoch: int, start: int) -> Iterator[_Share]:
        """Yield this rank's rows of each batch, three at a time under way.

        While one trains, the ids of the next one travel, and the sizes of the one after (Neo, ISCA 2022, pipelining;
        the order of TorchRec's TrainPipelineSparseDist). Ids alone are ahead, so that losses are the same.
        """
        under_way: deque[_Share] = deque()
        try:
            own = self._task.train_shares(
                epoch, start, rank=self._ranks.rank, num_ranks=self._ranks.size
            )
            for batch, num_rows in self._ranks.waits.each("reader", own):
                under_way.append(_Share(batch, num_rows))
                self._each(ShardedEmbeddingBags.announce, under_way[-1])
                if len(under_way) > 1:
                    self._each(ShardedEmbeddingBags.fetch, under_way[-2])
                if len(under_way) > _AHEAD:
                    yield under_way.popleft()
            yield from under_way
        finally:
            for _, bags in _spread(self.model):
                bags.forget()

    def _each(
        self, step: Callable[[ShardedEmbeddingBags, RaggedFeatures], None], share: _Share
    ) -> None:
        for _, bags in _spread(self.model):
            step(bags, share.batch.features)

    def losses(self, batch: _Share) -> Mapping[str, Tensor]:
        """Return this rank's part of the means over the whole batch."""
        if (
            batch.batch.num_rows == 0
        ):  # a mean over no rows is none, but other ranks wait for this one
            return {"loss": self.model(batch.batch).sum()}
        losses = self._task.losses(batch.batch)
        share = batch.batch.num_rows / batch.num_rows
        return {name: loss * share for name, loss in losses.items()}

    def evaluate(self, split: str) -> Evaluation:
        """Return the task's evaluation: each rank scores its rows, and all see all scores."""
        self._task.model = _Gathering(self.model, self)
        try:
            return self._task.evaluate(split)
        finally:
            self._task.model = self.model

    def _share(self, batch: RankingBatch) -> _Share:
        """Return the rows of this rank."""
        first, last = (
            batch.num_rows * number // self._ranks.size
            for number in (self._ranks.rank, self._ranks.rank + 1)
        )
        rows = torch.arange(first, last, device=batch.label.device)
        return _Share(batch.select_rows(rows), batch.num_rows)

    def scores(self, batch: RankingBatch, model: nn.Module) -> Tensor:
        """Return the scores of all rows of a batch."""
        own = model(self._share(batch).batch).float()
        return torch.cat(self._ranks.gather(own.contiguous()))


class _Gathering(nn.Module):
    def __init__(self, model: nn.Module, task: _SharedTask) -> None:
        super().__init__()
        self._model, self._shared = model, task

    def forward(self, batch: RankingBatch) -> Tensor:
        return self._shared.scores(batch, self._model)


def _put_into_tiers(model: nn.Module, tiers: Tiers, device: torch.device) -> None:
    """Put tiered tables where a model has tables without memory."""
    for name, bags in list(model.named_modules()):
        if isinstance(bags, EmbeddingBags):
            tiered = TieredEmbeddingBags(
                bags.tables, bags.optimizer, tiers, storage=bags.storage, seed=bags.seed
            )
            setattr(_parent(model, name), name.rpartition(".")[2], tiered.to(device))


def _with_rows_ahead(model: nn.Module, batches: Iterator[BatchType]) -> Iterator[BatchType]:
    """Yield batches, with the rows of the next one on their way to fast memory."""
    tiered = [each for each in model.modules() if isinstance(each, TieredEmbeddingBags)]
    waiting: BatchType | None = None
    try:
        for batch in batches:
            assert isinstance(batch, RankingBatch)
            for bags in tiered:
                bags.prefetch(batch.features)
            if waiting is not None:
                yield waiting
            waiting = batch
        if waiting is not None:
            yield waiting
    finally:
        for bags in tiered:
            bags.forget()


@contextmanager
def world_here(plan: Plan | None = None, options: ShardedOptions | None = None) -> Iterator[World]:
    """Yield the world that `torchrun` or `cuesta train --ranks` started this process in, or this process alone.

    Raises `UserError` where it is not started as one of several and a plan is for several. An error in the block is
    told to the other ranks, and on these raises a `UserError` with its words.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        if plan is not None and plan.world_size > 1:
            raise UserError(
                f"the plan is for {plan.world_size} ranks, here is one process; start it with "
                f"--ranks {plan.world_size}, or torchrun --nproc-per-node {plan.world_size}"
            )
        yield Ranked(Ranks(), plan, options=options)
        return
    uses_gpu = torch.cuda.is_available()
    if uses_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(torch.get_num_threads() // local, 1))
    store, rank, size = next(dist.rendezvous("env://", timeout=_PATIENCE))
    # torchrun keeps one store over restarts: ranks that start anew would find the addresses of the dead
    store = dist.PrefixStore(f"start-{_num_restarts()}", store)
    backend = "nccl" if uses_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        savers = Ranks(dist.new_group(backend="gloo", timeout=_PATIENCE))
        local = ranks_a_node(savers)
        with telling_others(store, rank, size):
            yield Ranked(_ranks_in_nodes(local), plan, local, savers, options)
    finally:
        dist.destroy_process_group()


def ranks_a_node(ranks: Ranks) -> int:
    """Return how many ranks each node has: as `torchrun` tells each, else how many hosts of one name follow each other.

    1 where nodes have different numbers of ranks, or the ranks of one do not follow each other.
    """
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    said = ranks.say(told or f"on {socket.gethostname()}")
    if told:
        return int(told) if set(said) == {told} else 1
    local = said.count(said[0])
    in_order = [host for host in dict.fromkeys(said) for _ in range(local)]
    return local if said == in_order else 1


def _ranks_in_nodes(local: int) -> Ranks:
    """Return the ranks of the default group, with the levels of a mesh where all nodes have several of them."""
    ranks = Ranks(dist.group.WORLD)
    if not 1 < local < ranks.size:
        return ranks
    mesh = init_device_mesh(
        ranks.device.type, (ranks.size // local, local), mesh_dim_names=("node", "place")
    )
    for group in mesh.get_all_groups():
        group.set_timeout(_PATIENCE)
    return Ranks.of_mesh(mesh)


def is_restarted() -> bool:
    """Return whether this process was started anew after ranks had failed."""
    return _num_restarts() > 0


def _num_restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _spread(model: nn.Module) -> Iterator[tuple[str, ShardedEmbeddingBags]]:
    for name, module in model.named_modules():
        if isinstance(module, ShardedEmbeddingBags):
            yield name, module


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])

"""Checkpoints of tables that any plan can load: saved by N ranks, loaded by M, or by one process unsharded, exactly.

```
index.json                            every part: table, what of it, rows, columns, file
rank-00000-of-00004.safetensors       a rank's parts, weights and the optimiser's state
rank-00000-of-00004-0001.safetensors  more of them
```

A part says which rows and columns of its table it is, so that loading is cutting: each rank reads of the files what
overlaps with what it holds. Parts are cut to the size of a file, for which memory has room while tables lie in files of
their own. The folder is complete or absent: the first rank makes it under a hidden name and renames it when all have
written. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cuesta.data.files import atomic_file
from cuesta.engine.tensor_files import kept
from cuesta.errors import UserError
from cuesta.nn import EmbeddingBags
from cuesta.rec.neo.plan import Shard
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.sharded import ShardedEmbeddingBags
from cuesta.rec.neo.sharding import shard_name
from cuesta.rec.neo.tiers import TieredEmbeddingBags

Bags = EmbeddingBags | TieredEmbeddingBags | ShardedEmbeddingBags

_VERSION = 1
_INDEX = "index.json"
_MOST_BYTES = 1 << 28  # of an index
_FILE_BYTES = 1 << 28  # of tensors in a file


class _Part(NamedTuple):
    """Hold a part of a table's weights or of its optimiser's state, [rows, columns] or [rows], as a view."""

    table: str
    kind: str  # weight, first or second
    rows: tuple[int, int]
    columns: tuple[int, int]
    values: Tensor
    is_copy: bool  # of what every rank has

    @property
    def key(self) -> str:
        return f"{shard_name(self.table, Shard(0, self.rows, self.columns))}.{self.kind}"


class HeldTables(NamedTuple):
    """Hold the parts of tables that one rank writes, and what the index says of all."""

    parts: list[_Part]
    shapes: dict[str, list[int]]
    updates: int


def save_tables(bags: Bags, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write the tables of all ranks into a folder; every rank calls, with the same folder.

    Raises `UserError` on every rank where one cannot write; what was there before stays.
    """
    ranks = _ranks_of(bags)
    with ranks.folder(Path(folder), overwrite=overwrite) as temporary:
        write_tables(held_tables(bags), temporary, ranks)


def held_tables(bags: Bags, *, copies: bool = False) -> HeldTables:
    """Return what this rank is to write of tables, as it is now if they are `copies` (in host memory)."""
    own = (part for part in _parts(bags) if _ranks_of(bags).rank == 0 or not part.is_copy)
    parts = [block for part in own for block in _blocks(part)]
    values = kept({part.key: part.values for part in parts}, copies=copies)
    return HeldTables(
        [part._replace(values=values[part.key]) for part in parts],
        _shapes(bags),
        max((int(each.updates) for each in _local(bags)), default=0),
    )


def write_tables(tables: HeldTables, folder: Path, ranks: Ranks) -> None:
    """Write the tables of all ranks into a folder that all see; every rank calls."""
    files: dict[str, list[_Part]] = {}
    for number, parts in enumerate(_files(tables.parts)):
        further = f"-{number:04d}" if number else ""
        files[f"rank-{ranks.rank:05d}-of-{ranks.size:05d}{further}.safetensors"] = parts
    ranks.together(lambda: _write(folder, files))
    entries = [_entry(part, file) for file, parts in files.items() for part in parts]
    own = {"updates": tables.updates, "parts": entries}
    said = [json.loads(each) for each in ranks.say(json.dumps(own))]
    if ranks.rank == 0:
        content = {
            "version": _VERSION,
            "updates": max(each["updates"] for each in said),
            "tables": tables.shapes,
            "parts": [entry for each in said for entry in each["parts"]],
        }
        (folder / _INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_tables(bags: Bags, folder: str | Path) -> None:
    """Put saved tables into a module, whatever plan either has; each rank for itself.

    Raises `UserError` naming a table or a part that does not fit or is missing.
    """
    _load(bags, Path(folder), _index(Path(folder)))


def load_whole(bags: Bags, path: Path, prefix: str) -> None:
    """Put tables of an unsharded model's state dict, a safetensors file, into a module: names begin with `prefix`."""
    entries, tables, updates = [], {}, 0
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                if not key.startswith(prefix):
                    continue
                group, _, rest = key.removeprefix(prefix).partition(".")
                if group == "updates":
                    updates = int(file.get_tensor(key))
                    continue
                name, kind = (rest, "weight") if group == "tables" else rest.rsplit(".", 1)
                shape = file.get_slice(key).get_shape()
                if kind == "weight":
                    tables[name] = shape
                entries.append(
                    {
                        "table": name,
                        "kind": kind,
                        "by_row": len(shape) == 1,
                        "file": path.name,
                        "key": key,
                    }
                )
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    for entry in entries:
        entry["rows"], entry["columns"] = ([0, size] for size in tables[entry["table"]])
    ordered = {name: tables[name] for name in _shapes(bags) if name in tables}
    _load(bags, path.parent, {"parts": entries, "tables": ordered, "updates": updates})


def _load(bags: Bags, folder: Path, index: Mapping[str, Any]) -> None:
    if index["tables"] != _shapes(bags):
        raise UserError(
            f"{folder} holds other tables: {index['tables']}; the model has {_shapes(bags)}"
        )
    saved: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in index["parts"]:
        saved.setdefault((entry["table"], entry["kind"]), []).append(entry)
    for part in _parts(bags):
        entries = saved.get((part.table, part.kind), ())
        filled = sum(_fill(folder, block, entry) for block in _blocks(part) for entry in entries)
        if filled != part.values.numel():
            raise UserError(
                f"{folder} does not fit: of {part.key} it holds {filled} of {part.values.numel()} numbers; "
                "was it trained with another optimiser, or with parts of columns that keep a state each?"
            )
    for each in _local(bags):
        each.updates.fill_(index["updates"])


def _ranks_of(bags: Bags) -> Ranks:
    return bags.ranks if isinstance(bags, ShardedEmbeddingBags) else Ranks()


def _local(bags: Bags) -> Sequence[EmbeddingBags | TieredEmbeddingBags]:
    return bags.local if isinstance(bags, ShardedEmbeddingBags) else [bags]


def _shapes(bags: Bags) -> dict[str, list[int]]:
    return {table.name: [table.num_rows, table.dim] for table in bags.tables}


def _parts(bags: Bags) -> Iterator[_Part]:
    """Yield what this rank holds."""
    held = {
        table.name: (table.name, (0, table.num_rows), (0, table.dim), False)
        for table in bags.tables
    }
    if isinstance(bags, ShardedEmbeddingBags):
        held = {name: (*place[:3], True) for name, place in held.items()}
        for table, shard in bags.sharding.shards[bags.ranks.rank]:
            place = (table.name, shard.rows, shard.columns, False)
            held[shard_name(table.name, shard)] = place
    for local in _local(bags):
        for key, values in local.state_dict().items():
            group, _, rest = key.partition(".")
            if group == "updates":
                continue
            name, kind = (rest, "weight") if group == "tables" else rest.rsplit(".", 1)
            table_name, rows, columns, is_copy = held[name]
            yield _Part(table_name, kind, rows, columns, values, is_copy)


def _entry(part: _Part, file: str) -> dict[str, Any]:
    return {
        "table": part.table,
        "kind": part.kind,
        "rows": part.rows,
        "columns": part.columns,
        "by_row": part.values.dim() == 1,
        "file": file,
        "key": part.key,
    }


def _blocks(part: _Part) -> Iterator[_Part]:
    """Yield a part in blocks of rows that a file has room for."""
    (begin, end), num_bytes = part.rows, max(part.values.nbytes, 1)
    step = max((end - begin) * _FILE_BYTES // num_bytes, 1)
    for first in range(begin, end, step):
        rows = (first, min(first + step, end))
        yield part._replace(rows=rows, values=part.values[_inside(rows, part.rows)])


def _files(parts: Sequence[_Part]) -> list[list[_Part]]:
    """Return the parts of each file, at least one file."""
    files: list[list[_Part]] = [[]]
    room = _FILE_BYTES
    for part in parts:
        if part.values.nbytes > room and files[-1]:
            files.append([])
            room = _FILE_BYTES
        files[-1].append(part)
        room -= part.values.nbytes
    return files


def _write(folder: Path, files: Mapping[str, Sequence[_Part]]) -> None:
    for name, parts in files.items():
        with atomic_file(folder / name) as temporary:
            save_file({part.key: part.values.contiguous() for part in parts}, temporary)
            temporary.chmod(0o644)


def _fill(folder: Path, part: _Part, entry: Mapping[str, Any]) -> int:
    """Copy what a saved part has of one in the module; return how many numbers."""
    rows, columns = _overlap(part.rows, entry["rows"]), _overlap(part.columns, entry["columns"])
    by_row = part.values.dim() == 1
    is_alike = not by_row or tuple(entry["columns"]) == part.columns
    if by_row != entry["by_row"] or not is_alike:
        return 0
    if rows[0] >= rows[1] or columns[0] >= columns[1]:
        return 0
    path = folder / Path(entry["file"]).name
    ours = (_inside(rows, part.rows), _inside(columns, part.columns))
    theirs = (_inside(rows, entry["rows"]), _inside(columns, entry["columns"]))
    try:
        with safe_open(path, framework="pt") as file:
            values = file.get_slice(entry["key"])[theirs[:1] if by_row else theirs]
    except (OSError, SafetensorError, IndexError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    target = part.values[ours[:1] if by_row else ours]
    target.copy_(values)
    return target.numel()


def _overlap(ours: Sequence[int], theirs: Sequence[int]) -> tuple[int, int]:
    return max(ours[0], theirs[0]), min(ours[1], theirs[1])


def _inside(span: tuple[int, int], whole: Sequence[int]) -> slice:
    return slice(span[0] - whole[0], span[1] - whole[0])


def _index(folder: Path) -> dict[str, Any]:
    path = folder / _INDEX
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} is too large for an index")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {folder} holds no saved tables") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise UserError(f"{path} is of another version, or no index of tables")
    return content

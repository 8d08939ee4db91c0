"""`Part`: rows of a batch in the combined format of Neo (ISCA 2022, data ingestion), three arrays whatever the
number of features.

```
offsets   0 ...                     [F * B + 1]   feature-major, as in RaggedFeatures
integers  user | time | ids         [2 * B + T]
floats    label | dense | weights   [B * (1 + D) + T]   no weights where no feature has any
```

This is what readers hand over. Nothing here imports torch, which takes longer to start than a reader needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from cuesta.data.schema import Schema

Allocate = Callable[[int, type[np.generic]], np.ndarray]  # as np.empty: a length and a dtype
NUM_FIXED = 2  # integers of a row before its ids: user, time


class Part(NamedTuple):
    """Hold B rows in combined format; what of them is where says a `Layout`."""

    offsets: NDArray[np.int64]
    integers: NDArray[np.int64]
    floats: NDArray[np.float32]


class Views(NamedTuple):
    """Name what lies in a part."""

    label: NDArray[np.float32]  # [B]
    dense: NDArray[np.float32]  # [B, D]
    user: NDArray[np.int64]  # [B]
    time: NDArray[np.int64]  # [B]
    values: NDArray[np.int64]  # [T]
    weights: NDArray[np.float32] | None  # [T]


class Layout(NamedTuple):
    """Say where each feature of a schema lies in `Rows`, and what is in a `Part`."""

    keys: tuple[str, ...]
    places: NDArray[np.int64]  # [F] of one id a row: its column of `integers`; ragged: -1 - group
    ragged: tuple[int, ...]  # the ragged features, in the order of `Rows.values`
    num_dense: int
    has_weights: bool

    @staticmethod
    def of(schema: Schema) -> Layout:
        """Return the layout of rows under `schema`."""
        groups = {
            member.name: -1 - number
            for number, members in enumerate(schema.groups().values())
            for member in members
        }
        single = [feature.name for feature in schema.features if not feature.ragged]
        columns = {name: NUM_FIXED + number for number, name in enumerate(single)}
        places = [{**groups, **columns}[feature.name] for feature in schema.features]
        return Layout(
            tuple(feature.name for feature in schema.features),
            np.array(places, np.int64),
            tuple(f for f, feature in enumerate(schema.features) if feature.ragged),
            len(schema.dense),
            any(feature.weights for feature in schema.features),
        )

    def num_rows(self, part: Part) -> int:
        """Return B."""
        return (len(part.offsets) - 1) // len(self.keys)

    def rest_of(self, offsets: NDArray[np.int64], num_rows: int, allocate: Allocate) -> Part:
        """Return the part with these offsets, of `num_rows` rows that are still to be written."""
        num_values = int(offsets[-1])
        integers = allocate(NUM_FIXED * num_rows + num_values, np.int64)
        num_weights = num_values if self.has_weights else 0
        floats = allocate(num_rows * (1 + self.num_dense) + num_weights, np.float32)
        return Part(offsets, integers, floats)

    def views(self, part: Part) -> Views:
        """Return what lies in a part, in its own memory."""
        num_rows = self.num_rows(part)
        dense_end = num_rows * (1 + self.num_dense)
        return Views(
            label=part.floats[:num_rows],
            dense=part.floats[num_rows:dense_end].reshape(num_rows, self.num_dense),
            user=part.integers[:num_rows],
            time=part.integers[num_rows : 2 * num_rows],
            values=part.integers[2 * num_rows :],
            weights=part.floats[dense_end:] if self.has_weights else None,
        )


class Placed(NamedTuple):
    """Hold rows of a batch and where in it they go."""

    part: Part
    places: NDArray[np.int64]


def join(layout: Layout, parts: Sequence[Part], allocate: Allocate = np.empty) -> Part:
    """Return the rows of all parts, one after another."""
    ends = np.cumsum([layout.num_rows(part) for part in parts])
    placed = [
        Placed(part, np.arange(end - layout.num_rows(part), end))
        for part, end in zip(parts, ends, strict=True)
    ]
    return merge(layout, placed, int(ends[-1]), allocate)


def merge(
    layout: Layout, given: Sequence[Placed], num_rows: int, allocate: Allocate = np.empty
) -> Part:
    """Return the part of `num_rows` rows that those given make; every place must be given once."""
    if len(given) == 1:  # its places can only be 0, 1, 2, ...
        arrays = [allocate(len(array), array.dtype.type) for array in given[0].part]
        for array, source in zip(arrays, given[0].part, strict=True):
            array[:] = source
        return Part(*arrays)
    offsets = allocate(len(layout.keys) * num_rows + 1, np.int64)
    offsets[0] = 0
    for part, places in given:
        _place_lengths(part.offsets, places, num_rows, len(layout.keys), offsets)
    np.cumsum(offsets, out=offsets)
    merged = layout.rest_of(offsets, num_rows, allocate)
    into = layout.views(merged)
    for part, places in given:
        each = layout.views(part)
        into.label[places], into.dense[places] = each.label, each.dense
        into.user[places], into.time[places] = each.user, each.time
        begins = offsets[:-1].reshape(len(layout.keys), num_rows)
        _place_values(part.offsets, each.values, places, begins, into.values)
        if each.weights is not None:
            _place_values(part.offsets, each.weights, places, begins, into.weights)
    return merged


@numba.njit(nogil=True, cache=True)
def _place_lengths(part_offsets, places, num_rows, num_features, offsets):  # type: ignore[no-untyped-def]
    bag = 0
    for feature in range(num_features):
        for place in places:
            length = part_offsets[bag + 1] - part_offsets[bag]
            offsets[feature * num_rows + place + 1] = length
            bag += 1


@numba.njit(nogil=True, cache=True)
def _place_values(part_offsets, part_values, places, begins, values):  # type: ignore[no-untyped-def]
    bag = 0
    for feature in range(begins.shape[0]):
        for place in places:
            source, end = part_offsets[bag], part_offsets[bag + 1]
            target = begins[feature, place]
            for position in range(end - source):
                values[target + position] = part_values[source + position]
            bag += 1

"""Chapter 0: ragged tensors in five minutes.

Run it with `python examples/00_ragged_in_five_minutes.py`; it takes seconds, of which Numba's first
compilation of a kernel is most. Read it from top to bottom: each section says one thing, and prints
or asserts it.
"""

import torch

from cuesta.nn import EmbeddingBags, Table, ragged_softmax
from cuesta.ops import RowwiseAdagrad, force_body, pad, segment_reduce, segment_spread
from cuesta.ragged import Ragged, RaggedFeatures
from cuesta.ragged.interchange import from_nested, to_nested


def rows_of_unequal_length() -> Ragged:
    """Hold three users' prices: two purchases, none, three. Nothing is padded."""
    prices = Ragged.from_lengths(torch.tensor([5.0, 7.0, 1.0, 2.0, 9.0]), [2, 0, 3])
    print("values ", prices.values.tolist())  # all rows, one after another: T = 5
    print("offsets", prices.offsets.tolist())  # row i is values[offsets[i] : offsets[i + 1]]
    assert prices.num_rows == 3
    assert prices.lengths().tolist() == [2, 0, 3]  # derived when asked for, never stored
    assert prices.row(1).numel() == 0  # an empty row is a row like any other
    return prices


def kernels_keep_the_shape(prices: Ragged) -> None:
    """Reduce rows to one value each, and spread one value over each row."""
    totals = segment_reduce(prices, "sum")
    print("totals ", totals.tolist())  # 0 for the empty row
    shares = prices.values / segment_spread(totals, prices.offsets).values
    again = segment_reduce(prices.with_values(shares))
    assert torch.allclose(again, torch.tensor([1.0, 0.0, 1.0]))

    scores = prices.with_values(prices.values[:, None])  # [T, H], one head
    weights = ragged_softmax(scores)
    print("softmax", [round(w, 3) for w in weights.flatten().tolist()])

    print("padded ", pad(prices).tolist())  # only when something else insists on it


def three_bodies_one_answer(prices: Ragged) -> None:
    """Compare a kernel with the few lines of torch that specify it."""
    fast = segment_reduce(prices, "mean")  # Numba here, Triton on a GPU
    with force_body("reference"):
        specified = segment_reduce(prices, "mean")
    assert torch.allclose(fast, specified)


def gradients_flow() -> None:
    """Differentiate through a ragged reduction as through any op of torch."""
    values = torch.ones(5, 2, requires_grad=True)
    segment_reduce(Ragged.from_lengths(values, [2, 0, 3]), "mean").sum().backward()
    assert values.grad is not None
    print("dvalues", values.grad[:, 0].tolist())  # 1 / length of the row


def a_batch_of_features() -> RaggedFeatures:
    """Join many id features of the same rows in one values and one offsets tensor."""
    batch = RaggedFeatures.from_ragged(
        {
            "user": Ragged.from_lengths(torch.tensor([7, 8, 9]), [1, 1, 1]),
            "viewed": Ragged.from_lengths(torch.tensor([3, 1, 4, 1, 5]), [2, 0, 3]),
        }
    )
    print("batch  ", batch)  # two tensors to move to a GPU, however many features there are
    assert batch["viewed"].row(2).tolist() == [4, 1, 5]
    return batch


def tables_that_learn(batch: RaggedFeatures) -> None:
    """Look up every table in one call, and update only the rows that were touched, exactly."""
    bags = EmbeddingBags(
        [
            Table(name="user", num_rows=10, dim=4, pooled=("user",)),
            Table(name="item", num_rows=6, dim=4, pooled=("viewed",), pooling="mean"),
        ],
        RowwiseAdagrad(lr=0.1),
    )
    before = bags.table("item").clone()
    pooled = bags(batch)  # [B, 4 + 4]
    assert pooled[1, 4:].tolist() == [0.0] * 4  # nothing viewed: zeros
    pooled.square().sum().backward()  # leaves ids and a gradient [B, 8], no table gradient
    bags.step()  # item 1 was viewed twice; its gradients are summed before its one update
    changed = (bags.table("item") != before).any(1).nonzero().flatten()
    print("changed", changed.tolist())
    assert changed.tolist() == [1, 3, 4, 5]


def doors_to_other_libraries(prices: Ragged) -> None:
    """Share memory with torch's nested tensors; Arrow and TorchRec have the same doors."""
    nested = to_nested(prices)
    assert nested.values().data_ptr() == prices.values.data_ptr()
    assert torch.equal(from_nested(nested).offsets, prices.offsets)


def main() -> None:
    """Read the chapter in order."""
    prices = rows_of_unequal_length()
    kernels_keep_the_shape(prices)
    three_bodies_one_answer(prices)
    gradients_flow()
    tables_that_learn(a_batch_of_features())
    doors_to_other_libraries(prices)


if __name__ == "__main__":
    main()

"""The endless order of pictures: every picture once an epoch, shared exactly among processes."""

from __future__ import annotations

from itertools import chain, islice

import pytest

from semseg_automl.training.batches import EndlessBatches, largest_micro_batch


def first(n: int, batches: EndlessBatches) -> list[list[tuple[int, int]]]:
    return list(islice(batches, n))


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (7, 7), (3, 5), (1, 4), (12, 1)])
def test_every_picture_once_an_epoch(n: int, batch: int) -> None:
    keys = list(chain.from_iterable(first(4 * n, EndlessBatches(n, batch, seed=0))))
    for epoch in range(3):
        indices = [i for e, i in keys if e == epoch]
        assert sorted(indices) == list(range(n))
    assert [e for e, _ in keys] == sorted(e for e, _ in keys)


def test_all_batches_are_full_and_epochs_are_shuffled_anew() -> None:
    batches = first(20, EndlessBatches(10, 4, seed=0))
    assert {len(b) for b in batches} == {4}
    keys = list(chain.from_iterable(batches))
    orders = [[i for e, i in keys if e == epoch] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2] != list(range(10))


def test_the_order_is_the_seeds() -> None:
    a, b, c = (first(9, EndlessBatches(10, 4, seed=s)) for s in (3, 3, 4))
    assert a == b != c
    batches = EndlessBatches(10, 4, seed=3)
    assert first(9, batches) == first(9, batches) == a  # an iteration starts at epoch 0 again


@pytest.mark.parametrize(("n", "batch", "world"), [(10, 4, 2), (10, 6, 3), (3, 8, 4), (5, 2, 1)])
def test_processes_together_see_what_one_sees(n: int, batch: int, world: int) -> None:
    alone = first(15, EndlessBatches(n, batch, seed=1))
    parts = [first(15, EndlessBatches(n, batch, seed=1, rank=r, world=world)) for r in range(world)]
    assert [list(chain.from_iterable(p)) for p in zip(*parts, strict=True)] == alone
    assert {len(b) for part in parts for b in part} == {batch // world}


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_are_the_batch_in_parts(micro: int) -> None:
    alone = first(6, EndlessBatches(10, 4, seed=1))
    parts = first(6 * 4 // micro, EndlessBatches(10, 4, seed=1, micro=micro))
    assert list(chain.from_iterable(parts)) == list(chain.from_iterable(alone))
    assert {len(p) for p in parts} == {micro}


def test_uneven_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="can't be shared evenly by 3 processes"):
        EndlessBatches(10, 4, seed=0, world=3)


@pytest.mark.parametrize(
    ("share", "limit", "expected"),
    [(4, 4, 4), (4, 3, 2), (4, 1, 1), (6, 5, 3), (7, 6, 1), (4, 99, 4), (4, 0, 1), (1, 1, 1)],
)
def test_largest_micro_batch_divides(share: int, limit: int, expected: int) -> None:
    assert largest_micro_batch(share, limit) == expected

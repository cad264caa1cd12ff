"""Which pictures form which batch: one endless, seeded order that any number of processes share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class EndlessBatches:
    """Batch sampler over epochs without end; yields lists of (epoch, index) keys.

    The order of an epoch is a permutation from (seed, epoch). Batches run on over the epoch's
    border, so each has ``batch_size`` pictures, and sets smaller than a batch repeat (with other
    augmentation). Process ``rank`` of ``world`` takes its contiguous part of every batch, so the
    union over processes is the batch that one process alone would see; it comes in micro-batches.
    The first ``skip`` batches are left out, for a run that goes on.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        micro: int | None = None,
        skip: int = 0,
    ) -> None:
        if batch_size % world:
            raise ValueError(f"batch_size={batch_size} can't be shared evenly by {world} processes")
        share = batch_size // world
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.start = rank * share
        self.share = share
        self.micro = min(micro or share, share)
        self.skip = skip

    def _keys(self) -> Iterator[tuple[int, int]]:
        epoch, seen = divmod(self.skip * self.batch_size, self.n)
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.n)
            yield from ((epoch, int(i)) for i in order[seen:])
            epoch, seen = epoch + 1, 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        keys = self._keys()
        while True:
            batch = [next(keys) for _ in range(self.batch_size)]
            mine = batch[self.start : self.start + self.share]
            for at in range(0, self.share, self.micro):
                yield mine[at : at + self.micro]


def largest_micro_batch(share: int, limit: int) -> int:
    """Largest divisor of ``share`` that is at most ``limit`` (at least 1)."""
    return max(m for m in range(1, share + 1) if share % m == 0 and (m <= limit or m == 1))

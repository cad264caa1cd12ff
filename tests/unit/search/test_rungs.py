"""Successive halving on paused trials: who goes on, and what it costs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from semseg_automl.search.rungs import (
    BUSY,
    DROPPED,
    ETA,
    MAX_CHAINS,
    PAUSED,
    Chain,
    adapted,
    chain_cost,
    promotable,
    rung_ends,
)


def chains(*scores: tuple[float, ...], status: str = PAUSED) -> list[Chain]:
    return [Chain(root=i, scores=s, status=status, last=i) for i, s in enumerate(scores)]


def test_the_best_third_goes_on() -> None:
    assert promotable(chains((0.1,), (0.2,)), 3) is None  # of two, no third
    found = promotable(chains((0.1,), (0.3,), (0.2,)), 3)
    assert found is not None and found.name == "trial_1"
    assert promotable(chains((0.1,), (0.3, 0.4), (0.2,)), 3) is None  # it went on already
    six = chains((0.1,), (0.3, 0.4), (0.2,), (0.25,), (0.0,), (0.05,))
    found = promotable(six, 3)
    assert found is not None and found.root == 3


def test_the_highest_rung_comes_first_and_the_top_is_the_end() -> None:
    nine = chains(*[(0.1 * i, 0.1 * i) if i >= 6 else (0.1 * i,) for i in range(9)])
    found = promotable(nine, 3)
    assert found is not None and found.root == 8  # to the third rung, though none is left for the second
    assert promotable(nine, 2) is None


def test_draining_takes_the_best_of_few() -> None:
    found = promotable(chains((0.1,), (0.3,)), 2, draining=True)
    assert found is not None and found.root == 1
    assert promotable(chains((0.1,), (0.3, 0.2)), 2, draining=True) is None
    assert promotable([], 3, draining=True) is None


def own_of(chains_: list[Chain], number: int, **changes: Any) -> list[Chain]:
    return [replace(c, own=True, **changes) if c.root == number else c for c in chains_]


def test_the_librarys_own_values_go_on_where_they_are_as_good_as_can_be_told() -> None:
    three = own_of(chains((0.3,), (0.29,), (0.1,)), 1)
    asked: list[tuple[int, int]] = []

    def alike(own: Chain, best: Chain) -> bool:
        asked.append((own.root, best.root))
        return own.scores[0] > best.scores[0] - 0.02

    found = promotable(three, 2, draining=True, alike=alike)
    assert found is not None and found.root == 1 and asked == [(1, 0)]
    found = promotable(own_of(chains((0.3,), (0.2,), (0.1,)), 1), 2, draining=True, alike=alike)
    assert found is not None and found.root == 0
    gone_on = own_of(chains((0.3,), (0.29, 0.31), (0.1,)), 1)
    assert promotable(gone_on, 2, draining=True, alike=lambda *_: False) is None  # its time is spent
    found = promotable(own_of(three, 1, status=DROPPED), 2, draining=True, alike=lambda *_: True)
    assert found is not None and found.root == 0  # it failed when it went on
    found = promotable(own_of(three, 1, keeps=False), 2, draining=True, alike=lambda *_: True)
    assert found is not None and found.root == 0  # it breaks a limit
    six = own_of(chains((0.3,), (0.29,), (0.1,), (0.31,), (0.0,), (0.05,)), 1)
    found = promotable(six, 2, draining=True, alike=lambda *_: True)
    assert found is not None and found.root == 3  # more than one goes on: by score


def test_nan_is_last_equals_are_first_come_and_only_the_paused_go_on() -> None:
    found = promotable(chains((math.nan,), (0.2,), (0.2,)), 2)
    assert found is not None and found.root == 1
    assert promotable(chains((0.3,), (0.2,), (0.1,), status=BUSY), 2) is None
    assert promotable(chains((0.3,), (0.2,), (0.1,), status=DROPPED), 2) is None


def test_a_whole_search_keeps_to_its_cost() -> None:
    """27 chains with fixed qualities: 27, 9 and 3 of them reach the rungs, the best one the last."""
    ends = rung_ends(9.0, 1.0)
    assert ends == (1.0, 3.0, 9.0)
    quality = [(i * 10 % 27) / 27 for i in range(27)]
    state: dict[int, tuple[float, ...]] = {}
    spent = 0.0
    while True:
        now = [Chain(root=r, scores=s, status=PAUSED, last=r) for r, s in state.items()]
        chain = promotable(now, 3, draining=len(state) == 27)
        if chain is None and len(state) == 27:
            break
        root = len(state) if chain is None else chain.root
        before = state.get(root, ())
        spent += ends[len(before)] - (ends[len(before) - 1] if before else 0.0)
        state[root] = (*before, quality[root])
    reached = [sum(len(s) > rung for s in state.values()) for rung in range(3)]
    assert reached[0] == 27 and 9 <= reached[1] <= 13 and 3 <= reached[2] <= 5
    assert len(state[quality.index(max(quality))]) == 3
    assert spent == pytest.approx(27 * 9.0 * chain_cost(3), rel=0.4)  # more where luck came first


@pytest.mark.parametrize(
    ("top", "shortest", "ends"),
    [
        (90.0, 5.0, (10.0, 30.0, 90.0)),
        (90.0, 11.0, (30.0, 90.0)),
        (90.0, 31.0, (90.0,)),
        (9e9, 1.0, (1e9, 3e9, 9e9)),
    ],
)
def test_rungs_are_thirds_and_none_is_too_short(top: float, shortest: float, ends: tuple) -> None:
    assert rung_ends(top, shortest) == pytest.approx(ends)


def test_cost_of_a_chain() -> None:
    assert chain_cost(1) == 1.0
    assert chain_cost(2) == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert chain_cost(3) == pytest.approx(1 / 9 + 1 / 3 * 2 / 9 + 1 / 9 * 6 / 9)


def test_rungs_for_another_time_than_was_planned() -> None:
    planned = (20.0, 60.0, 180.0)
    assert adapted(planned, 1000.0) == planned
    assert adapted(planned, 119.0) == (20.0, 60.0)  # the last leg takes 120 s
    assert adapted(planned, 39.0) == adapted(planned, 0.0) == (20.0,)
    most = MAX_CHAINS * chain_cost(3) * 180.0
    assert adapted(planned, 0.99 * most) == planned
    assert adapted(planned, 1.01 * most) == (*planned, 540.0)
    far = adapted(planned, 1e6)
    assert far[:3] == planned and all(b == ETA * a for a, b in itertools.pairwise(far))
    assert 1e6 / (chain_cost(len(far)) * far[-1]) >= ETA ** (len(far) - 1)  # one reaches the top
    assert 1e6 / (chain_cost(len(far) + 1) * ETA * far[-1]) < ETA ** len(far)
    assert adapted(planned, math.inf) == planned


def test_what_reached_the_old_top_goes_on_to_a_new_one() -> None:
    three = chains((0.1,), (0.5, 0.6, 0.7), (0.2, 0.3))
    assert promotable(three, 3) is None
    found = promotable(three, 4, draining=True)
    assert found is not None and found.root == 1

"""Successive halving on paused trials: which one goes on, and whether a new one starts. Pure.

A configuration's trials form a chain: each ends at a rung, where it is paused, and the next one goes on
from there. Of those that have reached a rung the best third goes on to the next, three times as far
(Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020: promotion whenever one
deserves it, without waiting for the others).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ETA = 3
MAX_RUNGS = 3
MAX_CHAINS = 40
"""Chains at most, for each worker: where more would fit, each gets more time instead."""
PAUSED, BUSY, DROPPED = "paused", "busy", "dropped"


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A configuration: ``root`` is the number of its first trial, ``last`` that of its latest finished
    one (None before there is one), ``scores`` its score at each rung that it has reached, ``status``
    "paused", "busy" (running or about to) or "dropped" (failed or pruned), ``keeps`` whether it keeps
    the limits on memory and latency, ``own`` whether it has the library's own values, the default being
    others."""

    root: int
    scores: tuple[float, ...]
    status: str
    last: int | None = None
    keeps: bool = True
    own: bool = False

    @property
    def name(self) -> str:
        """The leaderboard's name for it."""
        return name_of(self.root)


def name_of(root: int) -> str:
    """The leaderboard's name for the chain that a trial has begun."""
    return "default" if root == 0 else f"trial_{root}"


def promotable(
    chains: Sequence[Chain],
    n_rungs: int,
    *,
    draining: bool = False,
    alike: Callable[[Chain, Chain], bool] = lambda _own, _best: False,
) -> Chain | None:
    """The paused chain that goes on next, from the highest rung down; None if none deserves it yet.

    ``draining``: no new ones will start, so at each rung at least the best one goes on. NaN counts as
    the lowest score; of equals the earlier chain is better. Chains that break a limit go on only where
    none keeps them. ``alike(own, best)``: whether the scores of two can't be told apart; where a single one
    will go on, the library's own values then come before better ones, which are so by luck.
    """
    kept = any(c.keeps for c in chains if c.scores)
    for rung in range(n_rungs - 2, -1, -1):
        reached = [c for c in chains if len(c.scores) > rung]
        allowed = len(reached) // ETA
        if draining and reached:
            allowed = max(1, allowed)
        ranked = sorted(reached, key=lambda c: (not c.keeps, -_value(c.scores[rung]), c.root))
        if draining and allowed == 1:
            ranked = _own_first(ranked, rung, alike)
        for chain in ranked[:allowed]:
            if len(chain.scores) == rung + 1 and chain.status == PAUSED and (chain.keeps or not kept):
                return chain
    return None


def _own_first(ranked: list[Chain], rung: int, alike: Callable[[Chain, Chain], bool]) -> list[Chain]:
    """The same chains, that of the library's own values first if it went on or is as good as the best."""
    own = next((c for c in ranked if c.own), None)
    best = ranked[0]
    if own is None or own is best or own.keeps != best.keeps:
        return ranked
    if len(own.scores) > rung + 1 or (own.status != DROPPED and alike(own, best)):
        return [own, *(c for c in ranked if c is not own)]
    return ranked


def _value(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def rung_ends(top: float, shortest: float) -> tuple[float, ...]:
    """Where the rungs of a training of ``top`` seconds end: each at a third of the next.

    As many as are at least ``shortest``, at most ``MAX_RUNGS``; a single one means that nothing is paused.
    """
    ends = [top]
    while len(ends) < MAX_RUNGS and ends[0] / ETA >= shortest:
        ends.insert(0, ends[0] / ETA)
    return tuple(ends)


def chain_cost(n_rungs: int) -> float:
    """Mean cost of a chain as a share of the top rung: all start, a third goes on at each rung."""
    reached = 1.0
    total, before = 0.0, 0.0
    for rung in range(n_rungs):
        end = ETA ** (rung - n_rungs + 1.0)
        total += reached * (end - before)
        reached, before = reached / ETA, end
    return total


def adapted(ends: tuple[float, ...], seconds: float) -> tuple[float, ...]:
    """The rungs of a search that goes on with ``seconds`` for each worker, which is not what was planned.

    Ends stay where they are, so that scores remain comparable. Upper rungs whose last leg no longer fits
    are dropped (the time goes to lower ones and to the finish). Where the time would hold more than
    ``MAX_CHAINS`` chains, a rung three times as far is put on top, as long as enough chains are begun to
    leave one for it; what had reached the old top may go on to it.
    """
    if not math.isfinite(seconds):
        return ends
    found = list(ends)
    while len(found) > 1 and seconds < found[-1] - found[-2]:
        found.pop()
    while len(found) >= len(ends) and _chains(found, seconds) > MAX_CHAINS:
        more = [*found, ETA * found[-1]]
        if _chains(more, seconds) < ETA ** (len(more) - 1):
            break
        found = more
    return tuple(found)


def _chains(ends: Sequence[float], seconds: float) -> float:
    return seconds / (chain_cost(len(ends)) * ends[-1])

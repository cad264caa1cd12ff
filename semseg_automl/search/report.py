"""A search as a table: what plots of its history, its parameters, its rungs and its time are made of."""

from __future__ import annotations

from typing import Any

import optuna

from semseg_automl.search.study import CONTINUES, REQUEUED, SCORE, WORKER, chains_of, root_of


def search_table(study: optuna.Study) -> list[dict[str, Any]]:
    """One row per trial, JSON-ready.

    ``trial``: its number; ``model``: the leaderboard's name for its chain; ``rung``: how often the
    chain was paused before it; ``continues`` and ``requeue_of``: numbers of other trials, or None;
    ``state``: Optuna's; ``score``: of the model that was kept, greater is better, None where it failed;
    ``started`` and ``ended``: seconds since the first trial began; ``worker``: the process that ran it;
    ``params``.
    """
    trials = study.get_trials(deepcopy=False)
    names = {chain.root: chain.name for chain in chains_of(trials)}
    begun = [t.datetime_start for t in trials if t.datetime_start is not None]
    rungs: dict[int, int] = {}
    rows = []
    for trial in trials:
        if trial.datetime_start is None:
            continue
        root = root_of(trial)
        ended = trial.datetime_complete
        rows.append(
            {
                "trial": trial.number,
                "model": names[root],
                "rung": rungs.get(root, 0),
                "continues": trial.user_attrs.get(CONTINUES),
                "requeue_of": trial.user_attrs.get(REQUEUED),
                "state": trial.state.name,
                "score": trial.user_attrs.get(SCORE),
                "started": round((trial.datetime_start - min(begun)).total_seconds(), 2),
                "ended": None if ended is None else round((ended - min(begun)).total_seconds(), 2),
                "worker": trial.user_attrs.get(WORKER),
                "params": dict(trial.params),
            }
        )
        rungs[root] = rungs.get(root, 0) + (SCORE in trial.user_attrs)
    return rows

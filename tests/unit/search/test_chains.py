"""A study across pauses, kills and storages: chains, repetitions, what the sampler sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.search.proposals import enqueue_default, enqueue_from_portfolio, place_in, propose
from semseg_automl.search.request import TuneSettings
from semseg_automl.search.run_folder import JOURNAL
from semseg_automl.search.space import Categorical, Int, Real, Space
from semseg_automl.search.storage import open_storage
from semseg_automl.search.study import (
    WORKER,
    ask,
    chains_of,
    check_spaces,
    hand_back,
    in_memory,
    open_study,
    quiet_optuna,
    requeue_stale,
    tell,
    thaw,
)

CONFIG = RunConfig()
SPACES: dict[str, Space] = {"learning_rate": Real(1e-4, 1e-2, log=True), "rank": Int(2, 32, log=True)}


def new(storage: Any = None, **settings: Any) -> optuna.Study:
    with quiet_optuna():
        return open_study(TuneSettings(**settings), 0, storage, "test", paused=True)


def trained(study: optuna.Study, score: float | None, *, top: bool = False) -> tuple[optuna.Trial, RunConfig]:
    trial, config = ask(study, CONFIG, SPACES)
    tell(study, trial, score, pruned=not top)
    return trial, config


def test_a_chain_is_paused_and_gone_on_with() -> None:
    study = new()
    enqueue_default(study, CONFIG, SPACES)
    _, first = trained(study, 0.4)
    chain = chains_of(study.trials)[0]
    assert (chain.name, chain.scores, chain.status, chain.last) == ("default", (0.4,), "paused", 0)
    thaw(study, chain)
    waiting = chains_of(study.trials)
    assert len(waiting) == 1 and waiting[0].status == "busy"  # queued is taken
    _, second = trained(study, 0.6, top=True)
    assert second == first
    chain = chains_of(study.trials)[0]
    assert (chain.scores, chain.last) == ((0.4, 0.6), 1)
    assert study.trials[1].user_attrs["continues"] == 0 and study.trials[0].value == 0.4
    assert [t.state for t in study.trials] == [TrialState.PRUNED, TrialState.COMPLETE]


def test_a_chain_that_failed_is_dropped_with_the_score_it_had() -> None:
    study = new()
    trained(study, 0.4)
    thaw(study, chains_of(study.trials)[0])
    trained(study, None)
    (chain,) = chains_of(study.trials)
    assert chain.scores == (0.4,) and chain.status == "dropped"


def test_a_lost_trial_is_repeated_once() -> None:
    study = new()
    trained(study, 0.4)
    lost, config = ask(study, CONFIG, SPACES)  # and its process is killed
    ask(study, CONFIG, SPACES)  # another one is alive
    assert requeue_stale(study, lambda trial: trial.number == lost.number) == [lost.number]
    assert [t.state.name for t in study.trials] == ["PRUNED", "FAIL", "RUNNING", "WAITING"]
    again, repeated = ask(study, CONFIG, SPACES)
    assert repeated == config and study.trials[again.number].user_attrs["requeue_of"] == lost.number
    assert [c.name for c in chains_of(study.trials)] == ["default", "trial_1", "trial_2"]
    assert requeue_stale(study, lambda trial: trial.number == again.number) == [again.number]  # killed again
    assert TrialState.WAITING not in {t.state for t in study.trials}
    assert chains_of(study.trials)[1].status == "dropped"


def test_a_lost_trial_is_repeated_as_long_as_it_gets_further() -> None:
    """A machine that is taken away every hour still ends a trial of many hours."""
    study, seconds = new(), iter((100.0, 160.0, 160.0, 200.0))
    trained(study, 0.4)
    names: list[str] = []

    def spent(name: str) -> float:
        names.append(name)
        return next(seconds)

    for _ in range(3):
        ask(study, CONFIG, SPACES)
        requeue_stale(study, lambda _trial: True, spent)
    assert set(names) == {"trial_1"}
    assert [t.state.name for t in study.trials] == [
        "PRUNED",
        "FAIL",
        "FAIL",
        "FAIL",
    ]  # the third got no further


def test_handing_back_is_no_death() -> None:
    study = new()
    trial, _ = ask(study, CONFIG, SPACES)
    trial.set_user_attr(WORKER, "worker_1")
    hand_back(study, "worker_1")
    ask(study, CONFIG, SPACES)
    assert requeue_stale(study, lambda _trial: True) == [1] and study.trials[2].state == TrialState.WAITING


def test_other_choices_than_before_are_refused() -> None:
    study = new()
    spaces = {"rank": Categorical(4, 8), "learning_rate": Real(1e-4, 1e-2, log=True)}
    ask(study, CONFIG, spaces)
    check_spaces(study, spaces)
    check_spaces(study, {**spaces, "learning_rate": Real(1e-3, 1e-2, log=True), "alpha": Real(1.0, 2.0)})
    with pytest.raises(ConfigError, match=r"other values of rank.*4, 8"):
        check_spaces(study, {**spaces, "rank": Categorical(4, 8, 16)})
    sizes = {"crop_size": Categorical((256, 256), (512, 512))}  # Optuna knows their numbers alone
    check_spaces(study, sizes)
    check_spaces(study, sizes)
    with pytest.raises(ConfigError, match=r"other values of crop_size.*256"):
        check_spaces(study, {"crop_size": Categorical((640, 640), (768, 768))})


def test_a_trial_that_was_lost_before_it_asked_keeps_its_values() -> None:
    study = new()
    enqueue_default(study, CONFIG, SPACES)
    study.ask()
    requeue_stale(study, lambda _trial: True)
    assert ask(study, CONFIG, SPACES)[1] == CONFIG


def test_the_sampler_sees_one_trial_a_chain() -> None:
    seen: list[Any] = []

    class Spy(optuna.samplers.RandomSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            seen[:] = [(t.state.name, t.intermediate_values) for t in study.trials if t.params]
            return {}

    study = new(sampler=Spy(seed=1))
    trained(study, 0.4)
    thaw(study, chains_of(study.trials)[0])
    trained(study, 0.5)
    trained(study, 0.3)
    propose(study, CONFIG, SPACES)
    assert seen == [("PRUNED", {2: 0.5}), ("PRUNED", {1: 0.3})]
    assert study.trials[-1].state == TrialState.WAITING
    _, config = ask(study, CONFIG, SPACES)
    assert config.adapter.rank == study.trials[-1].params["rank"]


def test_the_portfolio_holds_the_known_good_values_whatever_the_default_is() -> None:
    study = new()
    wrong = CONFIG.replace(learning_rate=3e-2)
    enqueue_default(study, wrong, SPACES)
    while enqueue_from_portfolio(study, wrong, SPACES):
        pass
    queued = [t.system_attrs["fixed_params"] for t in study.trials]
    assert queued[0]["learning_rate"] == 1e-2  # the default's lies outside of the space: the nearest
    assert queued[1] == {"learning_rate": CONFIG.optim.learning_rate, "rank": CONFIG.adapter.rank}
    rates = [q["learning_rate"] for q in queued[1:]]
    assert rates == [pytest.approx(r) for r in (1e-3, 10**-3.5, 10**-2.5)]
    for _ in range(2):
        trained(study, 0.4)
    assert [chain.own for chain in chains_of(study.trials)] == [False, True]
    thaw(study, chains_of(study.trials)[1])
    assert [chain.own for chain in chains_of(study.trials)] == [False, True]


def test_the_default_is_not_tried_twice() -> None:
    study = new()
    enqueue_default(study, CONFIG, SPACES)
    assert enqueue_from_portfolio(study, CONFIG, SPACES)
    assert [t.system_attrs["fixed_params"]["learning_rate"] for t in study.trials] == [
        pytest.approx(r) for r in (1e-3, 10**-3.5)
    ]


def test_a_lost_default_is_repeated_before_the_portfolio_goes_on() -> None:
    study = new()
    enqueue_default(study, CONFIG, SPACES)
    ask(study, CONFIG, SPACES)  # and its process is killed
    assert requeue_stale(study, lambda _trial: True) == [0]
    again, config = ask(study, CONFIG, SPACES)
    assert study.trials[again.number].user_attrs["requeue_of"] == 0 and config == CONFIG
    assert enqueue_from_portfolio(study, CONFIG, SPACES)


def test_an_entry_of_the_portfolio_that_was_lost_is_repeated_and_not_queued_anew() -> None:
    study = new()
    enqueue_default(study, CONFIG, SPACES)
    trained(study, 0.4)
    enqueue_from_portfolio(study, CONFIG, SPACES)
    ask(study, CONFIG, SPACES)  # and its process is killed
    requeue_stale(study, lambda _trial: True)
    trained(study, 0.5)
    enqueue_from_portfolio(study, CONFIG, SPACES)
    assert trained(study, 0.5)[1].optim.learning_rate == pytest.approx(10**-2.5)
    assert not enqueue_from_portfolio(study, CONFIG, SPACES)


@pytest.mark.parametrize(
    ("space", "place", "value"),
    [
        (Real(0.0, 4.0), 0.25, 1.0),
        (Real(1e-4, 1e-2, log=True), 0.5, 1e-3),
        (Int(2, 32, log=True), 0.75, 16),
        (Categorical("a", "b"), 0.75, "b"),
        (Categorical("a", "b"), 1.0, "b"),
    ],
)
def test_places_in_spaces(space: Space, place: float, value: Any) -> None:
    found = place_in(space, place)
    assert found == (pytest.approx(value) if isinstance(value, float) else value)


def test_a_journal_survives_its_process_and_a_torn_line(tmp_path: Path) -> None:
    study = new(open_storage(None, tmp_path / "search"))
    trained(study, 0.4)
    trained(study, 0.5)
    with (tmp_path / "search" / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 6, "worker')
    again = new(open_storage(None, tmp_path / "search"))
    trained(again, 0.6)
    third = new(open_storage(None, tmp_path / "search"))
    assert [t.value for t in third.trials] == [0.4, 0.5, 0.6]
    copy = in_memory(third)
    assert [t.params for t in copy.trials] == [t.params for t in third.trials]
    assert optuna.load_study(  # as optuna-dashboard opens it
        study_name="test",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(tmp_path / "search" / JOURNAL))
        ),
    ).trials[2].user_attrs == {"score": 0.6}


def test_storages_by_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    trained(new(open_storage(url, None)), 0.4)
    assert [t.value for t in new(open_storage(url, None)).trials] == [0.4]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("study.db", "must be a URL"),
        ("sqlite:////nowhere/at/all/study.db", "can't be reached"),
        ("nonsense://host/study", "can't be reached"),
    ],
)
def test_storages_that_can_not_be_reached(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_storage(url, None)

"""Optuna behind ask and tell: the default first, choices of any kind, states, verbosity left as found."""

from __future__ import annotations

import math

import optuna
import pytest

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.search.proposals import enqueue_default
from semseg_automl.search.request import TuneSettings
from semseg_automl.search.space import Categorical, Int, Real, Space, default_space
from semseg_automl.search.study import ask, open_study, quiet_optuna, report_to, tell

CONFIG = RunConfig()


def new(seed: int = 0, **settings: object) -> optuna.Study:
    with quiet_optuna():
        return open_study(TuneSettings(**settings), seed, None, "test")  # type: ignore[arg-type]


def configurations(spaces: dict[str, Space], n: int, seed: int = 0) -> list[RunConfig]:
    study, found = new(seed), []
    enqueue_default(study, CONFIG, spaces)
    for i in range(n):
        trial, config = ask(study, CONFIG, spaces)
        tell(study, trial, float(i % 3))
        found.append(config)
    return found


def test_the_default_comes_first_then_others_reproducibly() -> None:
    spaces = default_space(CONFIG.adapter)
    found = configurations(spaces, 6)
    assert found[0] == CONFIG and all(c != CONFIG for c in found[1:])
    assert found == configurations(spaces, 6) != configurations(spaces, 6, seed=1)
    for config in found:
        flat = config.flat()
        assert all(s.lower <= flat[n] <= s.upper for n, s in spaces.items())  # type: ignore[union-attr]


def test_a_default_outside_the_space_is_left_out() -> None:
    spaces: dict[str, Space] = {"rank": Int(2, 4), "adapter": Categorical("lora", "conv_lora")}
    first = configurations(spaces, 1)[0]
    assert 2 <= first.adapter.rank <= 4 and first.adapter.adapter == "conv_lora"


@pytest.mark.parametrize(
    ("name", "space", "default"),
    [
        ("targets", Categorical(("q", "v"), None), None),
        ("crop_size", Categorical(64, None), None),
        ("image_size", Categorical((64, 96), 512), 512),
    ],
)
def test_choices_that_optuna_can_not_hold(name: str, space: Categorical, default: object) -> None:
    found = [c.flat()[name] for c in configurations({name: space}, 12)]
    assert found[0] == default and set(found) == set(space.choices)


def test_states_and_direction() -> None:
    study = new()
    for score, pruned in ((0.4, False), (None, False), (math.nan, False), (0.7, False), (0.9, True)):
        trial, _ = ask(study, CONFIG, {"weight_decay": Real(0.0, 0.1)})
        report_to(trial)(10, 0.1)
        tell(study, trial, score, pruned=pruned)
    states = [t.state.name for t in study.trials]
    assert states == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "PRUNED"]
    assert study.best_value == 0.7  # greater is better


def test_reports_are_counted_and_a_bad_trial_is_pruned() -> None:
    """Steps differ between trials, so the n-th report is compared with the n-th of the others."""
    study = new(pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1))
    for scores in ((0.5, 0.6, 0.7), (0.5, 0.65, 0.7)):
        trial, _ = ask(study, CONFIG, {"rank": Int(2, 8)})
        report = report_to(trial)
        assert not any([report(step, score) for step, score in zip((7, 11, 90), scores, strict=True)])
        tell(study, trial, scores[-1])
    assert list(study.trials[0].intermediate_values) == [0, 1, 2]
    trial, _ = ask(study, CONFIG, {"rank": Int(2, 8)})
    report = report_to(trial)
    assert not report(3, 0.1)  # warm-up
    assert report(5, 0.1)


def test_wrong_samplers_and_pruners_are_refused() -> None:
    for settings in ({"sampler": "tpe"}, {"pruner": optuna.samplers.RandomSampler()}):
        with pytest.raises(ConfigError, match="is not an optuna"):
            new(**settings)


def test_the_users_sampler_is_used() -> None:
    sampler = optuna.samplers.RandomSampler(seed=3)
    assert new(sampler=sampler).sampler is sampler


@pytest.mark.parametrize("before", [optuna.logging.DEBUG, optuna.logging.WARNING])
def test_verbosity_is_left_as_found(before: int) -> None:
    found = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(before)
    try:
        with pytest.raises(KeyError), quiet_optuna():
            assert optuna.logging.get_verbosity() == optuna.logging.ERROR
            raise KeyError
        assert optuna.logging.get_verbosity() == before
    finally:
        optuna.logging.set_verbosity(found)


def test_opening_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    configurations(default_space(CONFIG.adapter), 8)
    assert [str(w.message) for w in recwarn if "optuna" in str(w.filename)] == []

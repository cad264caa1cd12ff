"""Configurations of a search: inside of the spaces, none trained twice, none that reads nothing new."""

from __future__ import annotations

import math
from typing import Any

import pytest

from semseg_automl.core.config import RunConfig
from semseg_automl.core.reads import idle, settled
from semseg_automl.search.configurations import every, moved_inside, nearest, number_of
from semseg_automl.search.proposals import enqueue_default, enqueue_from_portfolio, is_used_up, propose, tried
from semseg_automl.search.request import TuneSettings
from semseg_automl.search.space import Categorical, Int, Real, Space
from semseg_automl.search.study import ask, open_study, quiet_optuna, tell

CONFIG = RunConfig()
METHODS = Categorical("conv_lora", "adapter", "lora", "decoder_only")


@pytest.mark.parametrize(
    ("value", "space", "found"),
    [
        (8, Int(2, 32), 8),
        (8, Int(10, 32), 10),
        (1 / 3, Int(0, 1), 0),
        (1e-3, Real(1e-5, 1e-4), 1e-4),
        (1e-3, Categorical(1e-5, 1e-2), 1e-5),
        (8, Categorical(2, 10, 16), 10),
        ("conv_lora", Categorical("lora", "vpt"), "lora"),
        (None, Categorical(("q", "v"), ("q",)), ("q", "v")),
        (None, Int(64, 128), 64),
        (True, Categorical(False), False),
    ],
)
def test_the_nearest_value_of_a_space(value: Any, space: Space, found: Any) -> None:
    assert nearest(value, space) == found


def test_experts_follow_scales_that_are_searched() -> None:
    spaces = {"scales": Categorical((1, 2), (1, 2, 4))}
    assert moved_inside(CONFIG, spaces).adapter.num_experts == 2
    assert [c.adapter.num_experts for c in every(CONFIG, spaces) or ()] == [2, 3]


@pytest.mark.parametrize(
    ("spaces", "number"),
    [
        ({"rank": Int(2, 5)}, 4),
        ({"rank": Int(2, 5), "learning_rate": Real(1e-4, 1e-2)}, math.inf),
        ({"adapter": METHODS}, 4),
        ({"adapter": Categorical("decoder_only", "lora"), "rank": Categorical(2, 4, 8)}, 4),
        ({"routing": Categorical("dense", "learned"), "top_k": Int(1, 3)}, 4),
        ({"head": Categorical("semantic", "mask_classification"), "num_queries": Categorical(4, 8)}, 3),
        ({"image_size": Int(32, 4096), "crop_size": Categorical(32, 64)}, math.inf),  # too many to list
        ({"class_crops": Categorical(0.1, 0.9)}, 1),  # whole pictures
        ({"small_scale": Real(0.3, 0.9)}, 1),  # without a share of smaller ones
        ({"class_crops": Real(0.1, 0.9), "rank": Int(2, 3)}, 2),
        ({"small_share": Categorical(0.0, 0.5), "small_scale": Real(0.3, 0.9)}, math.inf),
    ],
)
def test_how_many_models_a_space_holds(spaces: dict[str, Space], number: float) -> None:
    assert number_of(CONFIG, spaces) == number
    found = every(CONFIG, spaces)
    assert (math.inf if found is None else len(found)) == number


def test_what_has_no_effect_is_at_its_default() -> None:
    vpt = CONFIG.replace(adapter="vpt", rank=4, alpha=7.0, targets=("q",), num_queries=99, class_crops=0.5)
    assert settled(vpt) == CONFIG.replace(adapter="vpt", rank=4)
    assert {"alpha", "targets", "top_k", "num_queries", "small_scale"} <= idle(vpt) and "rank" not in idle(
        vpt
    )
    assert "learning_rate" not in idle(CONFIG.replace(adapter="decoder_only"))


def searched(spaces: dict[str, Space], number: int, *, config: RunConfig = CONFIG) -> list[RunConfig]:
    """What a search over ``spaces`` tries, the portfolio first, as long as there is something new."""
    found = []
    with quiet_optuna():
        study = open_study(TuneSettings(), 0, None, "test", paused=True)
        enqueue_default(study, config, spaces)
        for i in range(number):
            trial, new = ask(study, config, spaces)
            tell(study, trial, 0.1 * i)
            found.append(new)
            if not (enqueue_from_portfolio(study, config, spaces) or propose(study, config, spaces)):
                assert is_used_up(study, config, spaces)
                break
            queued = len(tried(study, config, spaces))
            assert is_used_up(study, config, spaces) == (queued == number_of(config, spaces))
    return found


def test_every_method_that_is_a_choice_is_tried_and_none_twice() -> None:
    found = [c.adapter.adapter for c in searched({"adapter": METHODS}, 9)]
    assert found == ["conv_lora", "adapter", "lora", "decoder_only"]


def test_a_search_over_few_values_tries_all_of_them_once() -> None:
    found = [c.adapter.rank for c in searched({"rank": Categorical(2, 4, 8)}, 9)]
    assert found[0] == 8 and sorted(found) == [2, 4, 8]


def test_what_a_method_does_not_read_is_not_drawn_for_it() -> None:
    spaces: dict[str, Space] = {
        "rank": Categorical(2, 4, 16),
        "adapter": Categorical("decoder_only", "lora"),
    }
    found = searched(spaces, 20)
    assert len(found) == len(set(found)) == 4
    ranks = sorted(c.adapter.rank for c in found if c.adapter.adapter == "lora")
    assert ranks == [2, 4, 16]


def test_fixed_values_that_a_method_has_not_do_not_fail_its_trials() -> None:
    config = CONFIG.replace(targets=("q", "v"))
    for new in searched({"adapter": Categorical("lora", "vpt")}, 2, config=config):
        assert new.adapter.targets == (("q", "v") if new.adapter.adapter == "lora" else None)


def test_a_default_outside_of_the_space_is_moved_into_it() -> None:
    spaces: dict[str, Space] = {
        "learning_rate": Categorical(1e-5, 1e-2),
        "adapter": Categorical("vpt", "lora"),
    }
    first = searched(spaces, 1)[0]
    assert (first.adapter.adapter, first.optim.learning_rate) == ("vpt", 1e-5)


def test_endless_spaces_are_never_used_up() -> None:
    spaces: dict[str, Space] = {"adapter": METHODS, "learning_rate": Real(1e-4, 1e-2, log=True)}
    found = searched(spaces, 12)
    assert len(set(found)) == 12


def test_what_was_tried_of_other_ranges_uses_up_nothing() -> None:
    """A search that is gone on with may have other ranges."""
    with quiet_optuna():
        study = open_study(TuneSettings(), 0, None, "test", paused=True)
        for rank in (2, 3, 4):
            study.enqueue_trial({"rank": rank})
            tell(study, ask(study, CONFIG, {"rank": Int(2, 4)})[0], 0.1)
        assert is_used_up(study, CONFIG, {"rank": Int(2, 4)}) and is_used_up(
            study, CONFIG, {"rank": Int(2, 3)}
        )
        moved: dict[str, Space] = {"rank": Int(4, 6)}
        assert not is_used_up(study, CONFIG, moved) and propose(study, CONFIG, moved)


def test_a_queued_configuration_counts_as_tried() -> None:
    spaces: dict[str, Space] = {"targets": Categorical(("q",), ("q", "v"), None)}
    with quiet_optuna():
        study = open_study(TuneSettings(), 0, None, "test", paused=True)
        enqueue_default(study, CONFIG, spaces)
        assert tried(study, CONFIG, spaces) == {settled(CONFIG)}
        assert propose(study, CONFIG, spaces) and propose(study, CONFIG, spaces)
        assert len(tried(study, CONFIG, spaces)) == 3 and not propose(study, CONFIG, spaces)

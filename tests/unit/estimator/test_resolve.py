"""Arguments of ``fit`` to one frozen request: order of strength, presets, wrong values with a guess."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import optuna
import pytest

from semseg_automl.core.config import RunConfig, hyperparameter_names
from semseg_automl.core.errors import ConfigError
from semseg_automl.estimator._resolve import find_preset, resolve_request
from semseg_automl.estimator._rules import CHOICES, RULES, check_hyperparameter
from semseg_automl.estimator.presets import PRESETS
from semseg_automl.losses.registry import resolve_loss
from semseg_automl.peft.registry import ADAPTERS
from semseg_automl.search.request import FitRequest, TuneSettings
from semseg_automl.search.space import Categorical, Int, Real
from semseg_automl.training.losses import BALANCE_WEIGHTS


def resolve(**arguments: Any) -> FitRequest:
    nothing = dict.fromkeys(("presets", "hyperparameters", "storage", "callbacks"))
    defaults = {"tune_kwargs": "auto", "devices": "auto", "num_workers": "auto", "seed": 0, "verbosity": 2}
    return resolve_request(**{**nothing, **defaults, **arguments})


def test_nothing_given_is_the_defaults() -> None:
    request = resolve()
    assert request.config == RunConfig() and not request.given and not request.spaces
    assert request.tune == TuneSettings() and request.auto_tune and request.preset == "medium_quality"


def test_the_user_is_stronger_than_the_preset_than_the_default() -> None:
    request = resolve(presets="conv_lora_paper", hyperparameters={"rank": 16, "image_size": (320, 480)})
    config = request.config
    assert config.adapter.rank == 16 and config.optim.optimizer == "adam" and config.optim.ema_decay == 0.0
    assert config.model.image_size == (320, 480) and config.adapter.routing == "learned"
    assert {"rank", "image_size", "optimizer"} <= request.given and "qkv" not in request.given
    assert resolve(presets="conv_lora_paper", hyperparameters={"routing": "dense"}).config.adapter == (
        dataclasses.replace(resolve(presets="conv_lora_paper").config.adapter, routing="dense")
    )


def test_the_users_own_augmentation_is_named_in_the_configuration_and_kept_beside_it() -> None:
    def darker(image: Any, mask: Any, rng: Any) -> Any:
        return image, mask

    request = resolve(presets="high_quality", hyperparameters={"augment": darker})
    assert request.own_augment is darker and "augment" in request.given
    assert request.config.optim.augment.startswith("own: ") and "darker" in request.config.optim.augment
    assert RunConfig.from_json(json.loads(json.dumps(request.config.to_json()))) == request.config
    assert resolve(hyperparameters={"augment": "aerial"}).own_augment is None
    for wrong, says in ((["light", darker], "no choice"), ("own: darker", "give the function itself")):
        with pytest.raises(ConfigError, match=says):
            resolve(hyperparameters={"augment": wrong})


def test_a_space_takes_the_place_of_a_presets_value() -> None:
    request = resolve(presets="conv_lora_paper", hyperparameters={"rank": [2, 4]})
    assert "rank" not in request.given and request.spaces == {"rank": Categorical(2, 4)}
    assert request.tune is not None  # a space asks for a search, whatever the preset


# presets


def test_conv_lora_paper_field_by_field() -> None:
    """Zhong et al., ICLR 2024, section 4; where the paper is silent, the released code's value."""
    request = resolve(presets="conv_lora_paper")
    adapter, optim, model = request.config.adapter, request.config.optim, request.config.model
    assert request.tune is None and not request.spaces  # nothing is searched
    assert adapter.adapter == "conv_lora"
    assert adapter.num_experts == 8 and adapter.scales is None and adapter.top_k == 1  # of scales 1 to 8
    assert adapter.targets is None and adapter.placement == "all"  # conv_lora's own: q, k, v
    assert adapter.rank == 3 and adapter.alpha == 32.0  # released code
    assert optim.optimizer == "adam"
    assert optim.learning_rate == optim.decoder_learning_rate == 1e-4 and optim.weight_decay == 1e-4
    assert optim.schedule == "constant" and optim.warmup == 0.0 and optim.ema_decay == 0.0
    assert optim.batch_size == 4 and optim.max_epochs == 30
    assert optim.augment == "light" and optim.crop_size is None  # horizontal flips of whole pictures
    assert optim.loss == "structure"
    assert optim.balance_weight == "auto" and BALANCE_WEIGHTS == {"binary": 1.0, "multiclass": 2.0}
    assert model.head == "semantic"
    assert {"max_epochs", "crop_size"} <= request.given  # the planner leaves them alone


def test_light_augmentation_is_horizontal_flips_alone() -> None:
    from semseg_automl.data.augment import PRESETS as AUGMENTS
    from semseg_automl.data.augment import Augment

    assert AUGMENTS["light"] == Augment(horizontal_flip=0.5)


@pytest.mark.parametrize("problem_type", ["binary", "multiclass"])
def test_the_papers_loss_exists_for_both_problems(problem_type: str) -> None:
    assert resolve_loss("structure", problem_type)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str) -> None:
    request = resolve(presets=name)
    assert request.preset == name and request.size_factor == PRESETS[name].size_factor
    for key, value in PRESETS[name].hyperparameters.items():
        assert request.config.flat()[key] == value


def test_quality_presets_grow() -> None:
    high, best = PRESETS["high_quality"], PRESETS["best_quality"]
    assert 1.0 < high.size_factor < best.size_factor and high.tta and best.tta
    assert best.finish_share > high.finish_share
    assert "max_epochs" not in resolve(presets="best_quality").given  # where a time limit decides, it does


def test_presets_are_known_by_name() -> None:
    assert find_preset(None)[0] == "medium_quality"
    with pytest.raises(ConfigError, match="Did you mean 'high_quality'"):
        find_preset("hi_quality")


# wrong values


@pytest.mark.parametrize("name", hyperparameter_names())
def test_every_default_keeps_its_rule(name: str) -> None:
    check_hyperparameter(name, RunConfig().flat()[name])


def test_every_hyperparameter_has_a_rule() -> None:
    """But the backbone, which is no hyperparameter."""
    assert set(hyperparameter_names()) - {"backbone"} == set(CHOICES) | set(RULES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rank", 0),
        ("rank", 2.5),
        ("rank", True),
        ("rank", "8"),
        ("alpha", -1.0),
        ("alpha", float("nan")),
        ("learning_rate", 0),
        ("learning_rate", float("inf")),
        ("weight_decay", -0.1),
        ("warmup", 1.0),
        ("ema_decay", 1.0),
        ("batch_size", 0),
        ("max_epochs", 1.5),
        ("micro_batch_size", "half"),
        ("balance_weight", "big"),
        ("image_size", 16),
        ("image_size", (64, 64, 3)),
        ("image_size", (64,)),
        ("rank", 10**7),
        ("num_queries", 4097),
        ("image_size", 64.0),
        ("crop_size", (64, 8)),
        ("scales", (1, 0)),
        ("scales", ()),
        ("targets", ("q", "x")),
        ("targets", ()),
        ("placement", "last_0"),
        ("placement", "first"),
        ("gradient_checkpointing", 1),
    ],
)
def test_wrong_values_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"Hyperparameter '{name}' must be .*got"):
        resolve(hyperparameters={name: value})


@pytest.mark.parametrize(
    ("name", "value", "guess"),
    [
        ("adapter", "convlora", "conv_lora"),
        ("optimizer", "adamW", "adamw"),
        ("schedule", "cosin", "cosine"),
        ("loss", "structre", "structure"),
        ("augment", "storng", "strong"),
        ("head", "semantics", "semantic"),
        ("routing", "learnd", "learned"),
        ("qkv", "fuse", "fused"),
        ("gate_scope", "images", "image"),
    ],
)
def test_unknown_choices_come_with_a_guess(name: str, value: str, guess: str) -> None:
    for given in (value, [value, guess]):  # as a value and among choices, before any trial
        with pytest.raises(ConfigError, match=f"{name}.*Did you mean '{guess}'"):
            resolve(hyperparameters={name: given})


@pytest.mark.parametrize("space", [Int(0, 4), Real(0.5, 8.0), Real(2, 32)])  # the last has no whole numbers
def test_bounds_of_spaces_are_checked(space: Int | Real) -> None:
    with pytest.raises(ConfigError, match="'rank' must be a whole number"):
        resolve(hyperparameters={"rank": space})


def test_values_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="top_k must lie in"):
        resolve(hyperparameters={"routing": "learned", "num_experts": 2, "top_k": 3})
    with pytest.raises(ConfigError, match="top_k must lie in"):
        resolve(hyperparameters={"routing": ["dense", "learned"], "num_experts": 2, "top_k": 3})
    with pytest.raises(ConfigError, match="use qkv='fused'"):
        resolve(hyperparameters={"routing": ["dense", "compat"], "qkv": "separate"})
    with pytest.raises(ConfigError, match="scales must be num_experts"):
        resolve(hyperparameters={"scales": [1, 2], "num_experts": 4})
    with pytest.raises(ConfigError, match=r"come to scales=\(1, 2\), which can't be: scales must be"):
        resolve(hyperparameters={"scales": [[1, 2], [1, 2, 4, 8]], "num_experts": 4})
    with pytest.raises(ConfigError, match=r"come to num_experts=2, which can't be: top_k must lie in 1"):
        resolve(hyperparameters={"routing": "learned", "num_experts": [2, 8], "top_k": 4})
    with pytest.raises(ConfigError, match=r"adapter='adapter', which can't be.* at q, v"):
        resolve(hyperparameters={"adapter": ["lora", "adapter"], "targets": ("q", "v")})
    with pytest.raises(ConfigError, match="come to routing='compat', qkv='separate'"):
        resolve(hyperparameters={"routing": ["dense", "compat"], "qkv": ["separate", "fused"]})


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"adapter": ["lora", "vpt"], "targets": ("q", "v")},  # vpt has no targets: left out for it
        {"adapter": ["lst", "lora"], "side_checkpoint": "side.safetensors"},
        {"adapter": ["conv_lora", "vpt"], "routing": ["dense", "learned"], "top_k": Int(1, 2)},
        {"targets": [None, ["q", "v"]]},
        {"scales": [None, [1, 2]]},
        {"targets": Categorical(["q", "v"], ["proj"])},
    ],
)
def test_values_that_some_trials_leave_out_go_together(hyperparameters: dict[str, Any]) -> None:
    assert resolve(hyperparameters=hyperparameters).spaces


def test_experts_follow_the_scales_that_are_given() -> None:
    assert resolve(hyperparameters={"scales": [1, 2]}).config.adapter.num_experts == 2
    assert resolve(hyperparameters={"scales": [[1, 2], [1, 2, 4]]}).config.adapter.num_experts == 2


def test_the_paper_preset_gives_way(caplog: pytest.LogCaptureFixture) -> None:
    for changes in ({"num_experts": 4}, {"num_experts": [4, 8]}, {"scales": [1, 2]}, {"adapter": "adapter"}):
        resolve(presets="conv_lora_paper", hyperparameters=changes)
    for adapter in ADAPTERS:
        assert resolve(presets="conv_lora_paper", hyperparameters={"adapter": adapter})


def test_the_search_begins_inside_of_its_space() -> None:
    request = resolve(hyperparameters={"adapter": ["vpt", "lora"], "rank": [2, 4]})
    assert request.config.adapter.adapter == "vpt" and request.config.adapter.rank == 4


def test_numbers_of_numpy_are_numbers() -> None:
    given = {
        "rank": np.int64(4),
        "learning_rate": np.float32(0.5),
        "alpha": np.longdouble(8),
    }
    config = resolve(hyperparameters={**given, "num_experts": np.arange(2, 5)}).config
    assert (config.adapter.rank, config.optim.learning_rate) == (4, 0.5)
    assert type(config.adapter.rank) is int and type(config.optim.learning_rate) is float
    spaces = resolve(
        hyperparameters={"num_experts": list(np.arange(2, 5)), "rank": Int(*np.array([2, 4]))}
    ).spaces
    assert spaces == {"num_experts": Categorical(2, 3, 4), "rank": Int(2, 4)}
    assert json.dumps([vars(spaces["rank"])])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"hyperparameters": {"lr": 1}}, "Unknown hyperparameter 'lr'"),
        ({"hyperparameters": {"learning_rates": 1}}, "Did you mean 'learning_rate'"),
        (
            {"hyperparameters": {"backbone": "sam_vit_b"}},
            r"pass SemanticSegmentor\(backbone=...\), in a shell --backbone",
        ),
        ({"hyperparameters": [("rank", 8)]}, "must be a dict"),
        ({"presets": "medium"}, "Did you mean 'medium_quality'"),
        ({"num_workers": 1.5}, "num_workers"),
        ({"num_workers": True}, "num_workers"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        resolve(**arguments)


# search settings


@pytest.mark.parametrize(
    ("arguments", "tune", "auto"),
    [
        ({}, TuneSettings(), True),
        ({"tune_kwargs": None}, None, False),
        ({"tune_kwargs": {}}, TuneSettings(), False),
        ({"tune_kwargs": {"num_trials": 5}}, TuneSettings(num_trials=5), False),
        ({"presets": "conv_lora_paper"}, None, False),
    ],
)
def test_when_to_search(arguments: dict[str, Any], tune: TuneSettings | None, auto: bool) -> None:
    request = resolve(**arguments)
    assert (request.tune, request.auto_tune) == (tune, auto)


def test_the_users_sampler_and_pruner_are_passed_on() -> None:
    given = {"sampler": optuna.samplers.RandomSampler(), "pruner": optuna.pruners.NopPruner()}
    tune = resolve(tune_kwargs=given).tune
    assert tune is not None and tune.sampler is given["sampler"] and tune.pruner is given["pruner"]


@pytest.mark.parametrize(
    ("tune_kwargs", "text"),
    [
        ("always", "must be 'auto', None or a dict"),
        (5, "must be 'auto', None or a dict"),
        ({"num_trial": 5}, "Did you mean 'num_trials'"),
        ({"num_trials": 0}, "at least 1"),
        ({"num_trials": 2.0}, "at least 1"),
        ({"num_trials": True}, "at least 1"),
        (
            {"num_workers": 0},
            r"num_workers of the search \(--search-workers\) must be a whole number of at least 1, got 0",
        ),
        ({"num_workers": -2}, "at least 1, got -2"),
        ({"num_workers": 1.5}, "at least 1, got 1.5"),
        ({"num_workers": True}, "at least 1, got True"),
        ({"num_workers": "auto"}, "at least 1, got 'auto'"),
        ({"num_worker": 2}, "Did you mean 'num_workers'"),
        ({"num_workers": 2, "sampler": optuna.samplers.RandomSampler()}, "sampler of your own"),
        ({"num_workers": 2, "pruner": optuna.pruners.NopPruner()}, "pruner of your own"),
        ({"max_memory": 0}, "max_memory must be a positive number of MB, got 0"),
        ({"max_latency": -1.0}, "max_latency must be a positive number of seconds per picture"),
        ({"max_latency": "fast"}, "got 'fast'"),
        ({"max_memory": float("inf")}, "got inf"),
    ],
)
def test_wrong_search_settings(tune_kwargs: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        resolve(tune_kwargs=tune_kwargs)


def test_a_function_of_ones_own_stays_in_one_process() -> None:
    def same(image: Any, mask: Any, _rng: Any) -> Any:
        return image, mask

    with pytest.raises(ConfigError, match="num_workers=2 with an augment of your own"):
        resolve(tune_kwargs={"num_workers": 2}, hyperparameters={"augment": same})


def test_spaces_without_a_search_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="spaces for rank"):
        resolve(tune_kwargs=None, hyperparameters={"rank": [2, 4]})


def test_requests_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_can_be_asked_for(adapter: str) -> None:
    assert resolve(hyperparameters={"adapter": adapter}).config.adapter.adapter == adapter


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5, None, True, "0"])
def test_a_seed_that_is_none(seed: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"random_state \(--seed\) must be a whole number from 0 to 2147483647"
    ):
        resolve(seed=seed)


@pytest.mark.parametrize("seed", [0, 2**31 - 1, np.int64(7)])
def test_seeds(seed: Any) -> None:
    assert resolve(seed=seed).seed == seed

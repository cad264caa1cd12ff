"""Search spaces, and how a user's hyperparameters fall into values and spaces."""

from __future__ import annotations

import pytest

from semseg_automl import space
from semseg_automl.core.config import AdapterConfig, RunConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.peft.registry import ADAPTERS
from semseg_automl.search.space import Categorical, Int, Real, default_space, split_hyperparameters


def test_public_names() -> None:
    assert space.Int is Int and space.Real is Real and space.Categorical is Categorical


@pytest.mark.parametrize(
    "make",
    [
        lambda: Int(5, 5),
        lambda: Int(8, 2),
        lambda: Real(1.0, 0.1),
        lambda: Real(0.0, 1.0, log=True),
        lambda: Int(-1, 4, log=True),
        lambda: Categorical(),
    ],
)
def test_impossible_spaces_are_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


def test_values_choices_and_spaces() -> None:
    fixed, spaces = split_hyperparameters(
        {
            "rank": 8,
            "num_experts": [2, 4],
            "learning_rate": Real(1e-4, 1e-2, log=True),
            "image_size": (64, 96),
            "adapter": Categorical("lora", "conv_lora"),
        }
    )
    assert fixed == {"rank": 8, "image_size": (64, 96)}
    assert spaces == {
        "num_experts": Categorical(2, 4),
        "learning_rate": Real(1e-4, 1e-2, log=True),
        "adapter": Categorical("lora", "conv_lora"),
    }


def test_lists_for_names_whose_value_is_a_sequence() -> None:
    fixed, spaces = split_hyperparameters({"scales": [1, 2], "targets": [["q", "v"], ["q", "k", "v"]]})
    assert fixed == {"scales": (1, 2)}
    assert spaces == {"targets": Categorical(("q", "v"), ("q", "k", "v"))}
    assert split_hyperparameters({"image_size": [256, 512]}) == ({}, {"image_size": Categorical(256, 512)})


def test_unknown_names_are_refused_with_a_guess() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'num_experts'"):
        split_hyperparameters({"num_expert": 4})


@pytest.mark.parametrize(
    ("adapter", "names"),
    [
        (AdapterConfig(), {"rank", "num_experts", "learning_rate"}),
        (AdapterConfig(adapter="lora"), {"rank", "learning_rate"}),
        (AdapterConfig(adapter="decoder_only"), {"decoder_learning_rate"}),
        (AdapterConfig(adapter="multi_scale_lora"), {"rank", "num_experts", "learning_rate"}),
        (AdapterConfig(adapter="mona"), {"rank", "learning_rate"}),
        (AdapterConfig(adapter="ssf"), {"learning_rate"}),
        (AdapterConfig(adapter="full"), {"learning_rate"}),
        (AdapterConfig(adapter="vpt"), {"rank", "learning_rate"}),
        (AdapterConfig(adapter="lst"), {"learning_rate"}),
        (AdapterConfig(num_experts=3, scales=(1, 2, 4)), {"rank", "learning_rate"}),
        (AdapterConfig(top_k=4, routing="learned"), {"rank", "learning_rate"}),
        (AdapterConfig(adapter="conv_lora", top_k=4), {"rank", "num_experts", "learning_rate"}),
    ],
)
def test_default_space_holds_what_the_adapter_has(adapter: AdapterConfig, names: set[str]) -> None:
    assert set(default_space(adapter)) == names


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_defaults_lie_inside_the_default_space(adapter: str) -> None:
    flat = RunConfig().flat()
    for name, entry in default_space(AdapterConfig(adapter=adapter)).items():
        assert entry.lower <= flat[name] <= entry.upper

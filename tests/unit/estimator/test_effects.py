"""Hyperparameters that would change nothing: named in a warning, refused where a search repeats itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from semseg_automl.core.errors import ConfigError
from semseg_automl.search.request import FitRequest
from tests.unit.estimator.test_resolve import resolve


def given(**hyperparameters: Any) -> FitRequest:
    return resolve(hyperparameters=hyperparameters)


@pytest.mark.parametrize(
    ("hyperparameters", "names"),
    [
        ({"adapter": "bitfit", "rank": 8, "alpha": 1.0}, ["rank", "alpha"]),
        ({"adapter": "lora", "num_experts": 4, "routing": "learned"}, ["num_experts", "routing"]),
        ({"adapter": "decoder_only", "placement": "last_4"}, ["placement"]),
        ({"adapter": "parallel_adapter", "rslora": True}, ["rslora"]),
        ({"adapter": "vpt", "lora_plus_ratio": 16.0}, ["lora_plus_ratio"]),
        ({"routing": "compat", "window_padding": "image"}, ["window_padding"]),
        ({"adapter": "lora", "top_k": 2}, ["top_k"]),
        ({"adapter": "lora", "balance_weight": 2.0}, ["balance_weight"]),
        ({"top_k": 1}, ["top_k"]),  # the default's own value, as in a dictionary of all
        ({"routing": ["dense", "compat"], "prompt_depth": "deep"}, ["prompt_depth"]),
        ({"num_queries": 8}, ["num_queries"]),
        ({"image_size": 64, "class_crops": 0.5}, ["class_crops"]),
        ({"image_size": [64, 96], "class_crops": 0.5}, ["class_crops"]),
        ({"small_share": 0.0, "small_scale": 0.5}, ["small_scale"]),
    ],
)
def test_what_changes_nothing_is_said(
    hyperparameters: dict[str, Any], names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="semseg_automl"):
        given(**hyperparameters)
    (record,) = caplog.records
    told = record.getMessage()
    assert told.startswith("Without effect with ") and told.endswith(f": {', '.join(names)}.")


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"rank": 4, "num_experts": 3, "gate_scope": "window", "window_padding": "window"},
        {"routing": "learned", "top_k": 2},
        {"adapter": ["bitfit", "lora"], "rank": 8},  # one of the two reads it
        {"adapter": ["bitfit", "conv_lora"], "routing": ["dense", "learned"], "top_k": [1, 2]},
        {"adapter": "decoder_only", "learning_rate": 1e-3},  # of a timm encoder's neck
        {"adapter": "vpt", "targets": None},  # undoes a preset's
        {"head": ["semantic", "mask_classification"], "num_queries": [4, 8]},
        {"class_crops": 0.5, "small_scale": 0.5},  # the planner may take crops
        {"image_size": 128, "crop_size": 64, "class_crops": 0.5},
    ],
)
def test_what_some_trial_reads_is_not(
    hyperparameters: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="semseg_automl"):
        given(**hyperparameters)
        resolve(presets="conv_lora_paper", hyperparameters={"adapter": "lora"})  # the preset's own values
    assert not caplog.records


@pytest.mark.parametrize(
    ("hyperparameters", "text"),
    [
        ({"adapter": "bitfit", "rank": [2, 4, 8]}, "search over rank .* no effect with adapter='bitfit'"),
        ({"adapter": "lora", "balance_weight": [1.0, 2.0]}, "search over balance_weight"),
        ({"adapter": ["ssf", "bitfit"], "alpha": [8.0, 16.0]}, "search over alpha .* adapters ssf, bitfit"),
        ({"routing": "compat", "nonlinearity": ["none", "gelu"]}, "nonlinearity .* and routing='compat'"),
        ({"top_k": 2}, "top_k has no effect .* add routing='learned'"),
        ({"routing": "dense", "top_k": [1, 2]}, "top_k has no effect .* add routing='learned'"),
        ({"num_queries": [4, 8]}, "search over num_queries .* no effect with head='semantic'"),
        ({"crop_size": None, "class_crops": [0.1, 0.9]}, "class_crops .* with whole pictures"),
    ],
)
def test_a_search_that_repeats_itself_is_refused(hyperparameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        given(**hyperparameters)

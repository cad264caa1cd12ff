"""Schedules at their ends, parameter groups, and the weight average against its formula."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from semseg_automl.core.config import OptimConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.training.optim import SCHEDULES, WeightAverage, build_optimizer, learning_rate_factor

FLOOR = 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_warm_up_from_about_nothing_to_the_peak(schedule: str) -> None:
    config = OptimConfig(schedule=schedule, warmup=0.1)
    assert learning_rate_factor(0.0, config) == pytest.approx(1e-3)
    assert learning_rate_factor(0.05, config) == pytest.approx(0.5, rel=0.02)
    assert learning_rate_factor(0.1, config) == pytest.approx(1.0, rel=0.03)
    assert learning_rate_factor(0.0, OptimConfig(schedule=schedule, warmup=0.0)) == 1.0


@pytest.mark.parametrize(
    ("schedule", "fraction", "factor"),
    [
        ("cosine", 0.5, 0.5),
        ("cosine", 2 / 3, 0.25),
        ("cosine", 1.0, FLOOR),
        ("wsd", 0.59, 1.0),
        ("wsd", 0.8, 0.5),
        ("wsd", 1.0, FLOOR),
        ("constant", 0.3, 1.0),
        ("constant", 1.0, 1.0),
        ("cosine", 1.7, FLOOR),  # past the end
    ],
)
def test_schedule_values(schedule: str, fraction: float, factor: float) -> None:
    config = OptimConfig(schedule=schedule, warmup=0.0)
    assert learning_rate_factor(fraction, config) == pytest.approx(factor, abs=1e-9)


def test_after_the_warm_up_no_schedule_rises() -> None:
    for schedule in SCHEDULES:
        config = OptimConfig(schedule=schedule)
        factors = [learning_rate_factor(f, config) for f in np.linspace(config.warmup, 1, 50)]
        assert all(b <= a for a, b in itertools.pairwise(factors))


def test_lora_plus_trains_second_matrices_faster() -> None:
    first, second, head = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    config = OptimConfig(learning_rate=1e-3, decoder_learning_rate=1e-4, lora_plus_ratio=16.0)
    for chosen, rates in ((config, [1e-3, 16e-3, 1e-4]), (OptimConfig(), [1e-3, 5e-4])):
        groups = build_optimizer([first, second], [head], chosen, fast=[second]).param_groups
        assert [g["peak_lr"] for g in groups] == pytest.approx(rates)
        assert sum(len(g["params"]) for g in groups) == 3


def test_unknown_names_are_refused_with_a_guess() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        learning_rate_factor(0.5, OptimConfig(schedule="cosin"))
    with pytest.raises(ConfigError, match="Did you mean 'adamw'"):
        build_optimizer([], [], OptimConfig(optimizer="adamww"))


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_groups(name: str, kind: type) -> None:
    adapter, head = nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    config = OptimConfig(optimizer=name, learning_rate=0.3, decoder_learning_rate=0.1, weight_decay=0.01)
    optimizer = build_optimizer(adapter.parameters(), head.parameters(), config)
    assert type(optimizer) is kind
    found = [
        (g["lr"], g["peak_lr"], g["weight_decay"], [p.ndim for p in g["params"]])
        for g in optimizer.param_groups
    ]
    assert found == [
        (0.3, 0.3, 0.01, [2]),
        (0.3, 0.3, 0.0, [1]),
        (0.1, 0.1, 0.01, [2]),
        (0.1, 0.1, 0.0, [1, 1, 1]),
    ]
    assert name != "sgd" or all(g["momentum"] == 0.9 for g in optimizer.param_groups)


def test_no_adapter_means_no_group() -> None:
    groups = build_optimizer([], nn.Linear(2, 2).parameters(), OptimConfig()).param_groups
    assert [g["lr"] for g in groups] == [OptimConfig().decoder_learning_rate] * 2


@pytest.mark.parametrize("decay", [0.0, 0.2, 0.99])
def test_average_is_the_written_out_formula(decay: float) -> None:
    """a_t = d_t a_(t-1) + (1 - d_t) w_t with d_t = min(decay, (1 + t) / (10 + t)), a_0 = w_0."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    average = WeightAverage([weight], decay)
    expected, generator = weight.detach().clone(), torch.Generator().manual_seed(0)
    for t in range(1, 30):
        with torch.no_grad():
            weight.copy_(torch.randn(2, generator=generator, dtype=torch.float64))
        average.update()
        d = min(decay, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * weight.detach()
        torch.testing.assert_close(average.average[0], expected)
    if decay == 0.0:
        assert torch.equal(average.average[0], weight.detach())


def test_swapping_in_and_out_is_exact() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([weight], 0.9)
    with torch.no_grad():
        weight.fill_(math.pi)
    average.update()
    average.swap_in()
    assert torch.equal(weight.detach(), average.average[0]) and not torch.equal(
        weight.detach(), torch.tensor([math.pi])
    )
    average.swap_out()
    average.swap_out()  # twice does no harm
    assert torch.equal(weight.detach(), torch.tensor([math.pi]))

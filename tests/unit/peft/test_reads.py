"""Which hyperparameters a method reads: what the table says is what changes the network."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import Tensor

from semseg_automl.core.config import AdapterConfig, OptimConfig
from semseg_automl.core.reads import OF_ADAPTERS, READS, reads
from semseg_automl.models.build import SAM_TINY
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder
from semseg_automl.peft.inject import collect_balance_loss, inject
from semseg_automl.peft.registry import ADAPTERS, CHOICES, resolve_method
from semseg_automl.peft.state import adapter_parameters, fast_parameters

FIELDS = {field.name for field in dataclasses.fields(AdapterConfig)} - {"adapter"}
OTHER = {
    "rank": 5,
    "alpha": 7.0,
    "num_experts": 2,
    "scales": (3, 2, 1),
    "top_k": 2,
    "routing": "dense",
    "gate_scope": "window",
    "window_padding": "window",
    "nonlinearity": "gelu",
    "rslora": True,
    "qkv": "separate",
    "placement": "last_1",
    "prompt_depth": "shallow",
}
"""Values beside those of ``base``. ``targets`` are the method's own; ``side_checkpoint`` names a file."""


def base(method: str, routing: str) -> AdapterConfig:
    return AdapterConfig(adapter=method, rank=2, num_experts=3, routing=routing)


def other_targets(method: str) -> tuple[str, ...]:
    """Fewer than the method's own; it may have but one."""
    return ADAPTERS[method].targets[:1]


@functools.cache
def answer(config: AdapterConfig) -> tuple[dict[str, torch.Size], Tensor]:
    """Shapes of what is trained, and the embedding of two pictures with all of it away from its start."""
    torch.manual_seed(0)
    encoder = TinyViTEncoder(SAM_TINY)
    inject(encoder, encoder.sites(), config)
    trained = adapter_parameters(encoder)
    generator = torch.Generator().manual_seed(1)
    for parameter in trained.values():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    pictures = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return {name: p.shape for name, p in trained.items()}, encoder.eval()(pictures).embedding


def differ(one: AdapterConfig, two: AdapterConfig) -> bool:
    (shapes, first), (others, second) = answer(one), answer(two)
    return shapes != others or not torch.equal(first, second)


def test_the_table_knows_every_method_and_every_name() -> None:
    assert READS.keys() == ADAPTERS.keys()
    assert OF_ADAPTERS >= FIELDS
    assert {field.name for field in dataclasses.fields(OptimConfig)} >= OF_ADAPTERS - FIELDS


@pytest.mark.parametrize(
    ("method", "routing"),
    [(m, r) for m in ADAPTERS for r in CHOICES["routing"] if r == "learned" or "routing" in READS[m]],
)
def test_names_change_the_network_or_are_not_read(method: str, routing: str) -> None:
    """One name at a time; nothing that has no effect is refused."""
    plain, read = base(method, routing), reads(method, routing)
    skipped = {"placement"} if method == "lst" else set()  # this encoder's rungs all lie in the last block
    skipped |= {"qkv"} if routing == "compat" else set()  # only fused
    for name, value in OTHER.items():
        if name in skipped or value == getattr(plain, name):
            continue
        changed = dataclasses.replace(plain, **{name: value})  # type: ignore[arg-type]
        resolve_method(changed)
        assert differ(plain, changed) == (name in read), name
    if len(ADAPTERS[method].targets) > 1:
        assert "targets" in read
        assert differ(plain, dataclasses.replace(plain, targets=other_targets(method)))


@pytest.mark.parametrize("method", ADAPTERS)
def test_lora_plus_is_read_where_it_has_tensors(method: str) -> None:
    encoder = TinyViTEncoder(SAM_TINY)
    inject(encoder, encoder.sites(), base(method, "dense"))
    assert bool(fast_parameters(encoder)) == ("lora_plus_ratio" in READS[method])


@pytest.mark.parametrize("method", ADAPTERS)
def test_the_balance_loss_is_read_where_there_is_one(method: str) -> None:
    encoder = TinyViTEncoder(SAM_TINY)
    layers = inject(encoder, encoder.sites(), base(method, "dense"))
    encoder.train()(torch.randn(2, 3, 64, 64))
    balanced = bool(collect_balance_loss(layers).requires_grad)
    assert balanced == ("balance_weight" in READS[method]) == ("balance_scale" in READS[method])

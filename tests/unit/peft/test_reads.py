"""Which hyperparameters a method reads: what the table says is what building it looks at."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from semseg_automl.core.config import AdapterConfig, OptimConfig
from semseg_automl.core.reads import OF_ADAPTERS, READS, reads
from semseg_automl.models.build import SAM_TINY
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder
from semseg_automl.peft.inject import inject
from semseg_automl.peft.registry import ADAPTERS, CHOICES, resolve_method
from semseg_automl.peft.state import fast_parameters

SEEN: set[str] = set()
FIELDS = {field.name for field in dataclasses.fields(AdapterConfig)} - {"adapter"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(AdapterConfig):
    """A configuration that notes what is asked of it."""

    def __getattribute__(self, name: str) -> object:
        SEEN.add(name)
        return super().__getattribute__(name)


def build(config: AdapterConfig) -> TinyViTEncoder:
    torch.manual_seed(0)
    encoder = TinyViTEncoder(SAM_TINY)
    inject(encoder, encoder.sites(), config)
    return encoder


def test_the_table_knows_every_method_and_every_name() -> None:
    assert READS.keys() == ADAPTERS.keys()
    assert OF_ADAPTERS >= FIELDS
    assert {field.name for field in dataclasses.fields(OptimConfig)} >= OF_ADAPTERS - FIELDS


@pytest.mark.parametrize("method", ADAPTERS)
def test_what_a_method_is_said_to_read_is_asked_for(method: str) -> None:
    """``side_checkpoint`` is asked for by whoever builds the side network, with or without a file."""
    SEEN.clear()
    build(Watched(adapter=method, rank=2, num_experts=2, routing="learned"))
    assert set(READS[method]) & FIELDS - {"routing", "placement"} <= SEEN


OTHER = {
    "rank": 5,
    "alpha": 7.0,
    "num_experts": 3,
    "scales": (2, 3),
    "top_k": 2,
    "routing": "dense",
    "gate_scope": "window",
    "window_padding": "window",
    "nonlinearity": "gelu",
    "rslora": True,
    "qkv": "separate",
    "prompt_depth": "shallow",
}


@pytest.mark.parametrize("method", ADAPTERS)
@pytest.mark.parametrize("routing", CHOICES["routing"])
def test_other_names_change_nothing(method: str, routing: str) -> None:
    """The same tensors with the same seed, and layers that compute alike, whatever the names are."""
    base = AdapterConfig(adapter=method, rank=2, num_experts=2, routing=routing)
    idle = {name: value for name, value in OTHER.items() if name not in reads(method, routing) | {"routing"}}
    changed = dataclasses.replace(base, **idle)  # type: ignore[arg-type]
    resolve_method(changed)  # nothing that has no effect is refused
    one, other = (build(config) for config in (base, changed))
    state = other.state_dict()
    assert state.keys() == one.state_dict().keys()
    assert all((state[name] == value).all() for name, value in one.state_dict().items())
    assert {type(m) for m in one.modules()} == {type(m) for m in other.modules()}


@pytest.mark.parametrize("method", ADAPTERS)
def test_lora_plus_is_read_where_it_has_tensors(method: str) -> None:
    encoder = build(AdapterConfig(adapter=method, rank=2, num_experts=2))
    assert bool(fast_parameters(encoder)) == ("lora_plus_ratio" in READS[method])

"""torch.export of an encoder with each adapter: what is exported computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.models.build import SAM_TINY
from semseg_automl.models.encoders.base import Encoder
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder
from semseg_automl.peft import lst
from semseg_automl.peft.inject import inject
from semseg_automl.peft.registry import ADAPTERS
from semseg_automl.peft.state import adapter_parameters

VARIANTS = {name: {} for name in ADAPTERS} | {
    "conv_lora learned": {"routing": "learned"},
    "conv_lora by window": {"routing": "learned", "gate_scope": "window", "window_padding": "window"},
    "conv_lora compat": {"routing": "compat"},
    "conv_lora gelu": {"nonlinearity": "gelu"},
}


class Embedding(nn.Module):
    """The embedding alone: a tensor in, a tensor out."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images).embedding


def adapted(variant: str) -> tuple[Embedding, Tensor]:
    torch.manual_seed(0)
    encoder = TinyViTEncoder(SAM_TINY)
    config = AdapterConfig(adapter=variant.split()[0], rank=2, num_experts=2, **VARIANTS[variant])
    inject(encoder, encoder.sites(), config)
    for parameter in adapter_parameters(encoder).values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return Embedding(encoder.eval()), torch.randn(1, 3, 48, 80)


QUICK = ("conv_lora", "conv_lora learned", "vpt")
CASES = [v if v in QUICK else pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS]


@pytest.mark.parametrize("variant", CASES)
def test_exported_encoders_compute_the_same(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lst, "VIT_TINY", lst.SideSize(dim=12, depth=2, heads=2))
    model, images = adapted(variant)
    with torch.no_grad():
        program = torch.export.export(model, (images,), strict=False)
        torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-5)

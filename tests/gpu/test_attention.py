"""SAM's attention with relative positions on CUDA: the CPU's numbers, and memory linear in the tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig
from semseg_automl.models.devices import give_back_memory
from semseg_automl.models.encoders.attention import biased_attention
from semseg_automl.models.encoders.rel_pos import relative_attention
from semseg_automl.models.encoders.sam_vit import SamViTEncoder
from semseg_automl.peft.inject import inject
from tests.gpu.networks import CUDA

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_float32")]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def results(tensors: list[Tensor], attend: Any, device: Any) -> list[Tensor]:
    """Output and gradients of all inputs, on the CPU in float32."""
    inputs = [t.to(device).requires_grad_() for t in tensors]
    out = attend(*inputs)
    probe = drawn(*out.shape).to(device, out.dtype)
    gradients = torch.autograd.grad((out * probe).sum(), inputs)
    return [t.detach().float().cpu() for t in (out, *gradients)]


def check(tensors: list[Tensor], attend: Any, relative: float, *, dtype: torch.dtype = torch.float32) -> None:
    wanted = results(tensors, attend, "cpu")
    for mine, theirs in zip(results([t.to(dtype) for t in tensors], attend, CUDA), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=relative * float(theirs.abs().max()))


@pytest.mark.parametrize(
    "grid, width",
    [((14, 14), 16), ((14, 14), 64), ((24, 40), 64), ((24, 40), 80), ((60, 140), 64)],
    ids=str,
)
def test_relative_attention_equals_the_cpus(grid: tuple[int, int], width: int) -> None:
    """The largest grid makes heads wider than the flash kernels take."""
    h, w = grid
    parts = [drawn(1, 2 if h < 60 else 1, h * w, width) + 0.1 * i for i in range(3)]
    tables = [0.2 * drawn(h, h, width), 0.2 * drawn(w, w, width)]
    check([*parts, *tables], relative_attention, 2e-4)


@pytest.mark.parametrize("grid", [(14, 14), (24, 40)])
def test_relative_attention_in_bfloat16(grid: tuple[int, int]) -> None:
    h, w = grid
    parts = [drawn(2, 2, h * w, 64) + 0.1 * i for i in range(3)]
    check(
        [*parts, 0.1 * drawn(h, h, 64), 0.1 * drawn(w, w, 64)], relative_attention, 0.06, dtype=torch.bfloat16
    )


@pytest.mark.parametrize("tokens", [49, 196, 300])
def test_window_attention_equals_the_cpus(tokens: int) -> None:
    parts = [drawn(6, 4, tokens, 32) + 0.1 * i for i in range(3)]
    check([*parts, drawn(1, 4, tokens, tokens)], biased_attention, 2e-4)
    check(parts, lambda q, k, v: biased_attention(q, k, v, None), 2e-4)


def peak_of(encoder: SamViTEncoder, size: int, dtype: torch.dtype, *, train: bool) -> int:
    """Bytes of one pass at its peak, beyond what was there before it."""
    image = torch.randn(1, 3, size, size, device=CUDA)
    encoder.zero_grad(set_to_none=True)
    give_back_memory("cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    enabled = dtype != torch.float32
    with torch.set_grad_enabled(train), torch.autocast("cuda", dtype, enabled=enabled):
        loss = F.relu(encoder(image).embedding.float()).mean()
    if train:
        loss.backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@pytest.fixture(scope="module")
def vit_b() -> SamViTEncoder:
    """ViT-B with LoRA in every block, at random, on the device."""
    with torch.device("cuda"):
        encoder = SamViTEncoder()
    inject(encoder, encoder.sites(), AdapterConfig(adapter="lora"))
    return encoder


@pytest.mark.parametrize("train", [False, True], ids=["predict", "train"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_memory_grows_with_the_tokens(vit_b: SamViTEncoder, dtype: torch.dtype, train: bool) -> None:
    """Four times the tokens: at most 4.4 times the memory (with scores in memory it would be 16 times)."""
    small, large = (peak_of(vit_b, size, dtype, train=train) for size in (1024, 2048))
    assert large <= 4.4 * small, f"{small / 2**20:.0f} -> {large / 2**20:.0f} MiB: {large / small:.2f} times"

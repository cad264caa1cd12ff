"""SAM's ViT against segment_anything's own ImageEncoderViT with the same random weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.utils._python_dispatch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import add_decomposed_rel_pos, get_rel_pos
from torch import nn

from semseg_automl.models.encoders import rel_pos
from semseg_automl.models.encoders.base import Encoder
from semseg_automl.models.encoders.rel_pos import relative_attention, relative_table
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from tests.contracts.encoder_contract import CutContract, EncoderContract

SMALL = SamViTConfig(dim=24, depth=4, heads=2, global_blocks=(1, 3), window=3, embed_dim=16, grid=8)


def package_twin(config: SamViTConfig) -> ImageEncoderViT:
    """The package's encoder with every tensor random (its position tables start at zero)."""
    twin = ImageEncoderViT(
        img_size=config.grid * config.patch,
        patch_size=config.patch,
        embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        out_chans=config.embed_dim,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window,
        global_attn_indexes=config.global_blocks,
    )
    for parameter in twin.parameters():
        if parameter.ndim == 1 or parameter.shape[-1] in (config.dim, config.dim // config.heads):
            nn.init.normal_(parameter, std=0.3)
    return twin


def pair() -> tuple[SamViTEncoder, ImageEncoderViT]:
    torch.manual_seed(0)
    twin, encoder = package_twin(SMALL), SamViTEncoder(SMALL)
    encoder.load_state_dict(twin.state_dict(), strict=True)
    return encoder, twin


class TestContract(CutContract, EncoderContract):
    def make(self) -> Encoder:
        return pair()[0]


@pytest.mark.parametrize("graph", [False, True])
def test_equals_the_package_at_its_own_size(graph: bool) -> None:
    encoder, twin = pair()
    images = torch.randn(2, 3, 128, 128)
    with torch.set_grad_enabled(graph):
        out, expected = encoder(images).embedding, twin(images)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_gradients_equal_the_package() -> None:
    encoder, twin = pair()
    images = torch.randn(1, 3, 128, 128)
    encoder(images).embedding.square().sum().backward()
    twin(images).square().sum().backward()
    expected = dict(twin.named_parameters())
    for name, parameter in encoder.named_parameters():
        other = expected[name].grad
        torch.testing.assert_close(parameter.grad, other, atol=2e-4 * float(other.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("size", [(64, 64), (48, 160), (192, 176)])
@pytest.mark.parametrize("graph", [False, True])
def test_other_sizes_equal_the_packages_blocks(size: tuple[int, int], graph: bool) -> None:
    """The package's blocks take any size (its tables are interpolated); only its positions do not."""
    encoder, twin = pair()
    images = torch.randn(1, 3, *size)
    with torch.set_grad_enabled(graph):
        x = twin.patch_embed(images)
        x = x + encoder.positions(*x.shape[1:3])
        for block in twin.blocks:
            x = block(x)
        expected = twin.neck(x.permute(0, 3, 1, 2))
        out = encoder(images).embedding
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_positions_are_stored_ones_at_the_stored_size_and_smooth_elsewhere() -> None:
    encoder, _ = pair()
    assert encoder.positions(8, 8) is encoder.pos_embed
    ramp = torch.arange(8.0).view(1, 1, 8, 1).expand(1, 8, 8, SMALL.dim)
    encoder.pos_embed.data.copy_(ramp)
    wide = encoder.positions(8, 16)[0, 4, :, 0]
    assert wide.shape == (16,) and bool((wide.diff() > 0).all())
    torch.testing.assert_close(wide[4:12], torch.arange(4, 12) / 2 - 0.25, atol=0.02, rtol=0)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("grid", [(3, 3), (4, 7)])
def test_relative_attention_is_the_written_out_formula(grid: tuple[int, int], grad: bool) -> None:
    torch.manual_seed(0)
    h, w = grid
    q, k, v = torch.randn(3, 2, 2, h * w, 8, dtype=torch.float64).requires_grad_(grad).unbind(0)
    table_h, table_w = torch.randn(2 * h - 1, 8).double(), torch.randn(9, 8).double()
    out = relative_attention(q, k, v, relative_table(table_h, h), relative_table(table_w, w))
    flat_q = q.flatten(0, 1)
    scores = (flat_q * 8**-0.5) @ k.flatten(0, 1).transpose(1, 2)
    scores = add_decomposed_rel_pos(scores, flat_q, table_h, table_w, grid, grid)
    expected = (scores.softmax(-1) @ v.flatten(0, 1)).view_as(out)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block", [1, 40, 200, 1 << 20])
@pytest.mark.parametrize("grid", [(3, 3), (4, 7), (6, 2)])
def test_blocks_change_neither_values_nor_gradients(
    grid: tuple[int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the form with one-hot channels and torch's own kernel, in float64, tables included."""
    monkeypatch.setattr(rel_pos, "_BLOCK", block)
    torch.manual_seed(0)
    h, w = grid
    inputs = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in [(2, 3, h * w, 8)] * 3 + [(h, h, 8), (w, w, 8)]
    ]
    expected, found = rel_pos._folded(*inputs), relative_attention(*inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(relative_attention(*inputs), expected, rtol=0, atol=1e-12)
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, grad)
    for mine, theirs in zip(torch.autograd.grad(found, inputs, grad), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("heads", [1, 4, 12, 16])
def test_heads_in_groups_are_the_same_heads(heads: int) -> None:
    """What a prediction on a GPU runs for many tokens."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, 4 * 7, 8, dtype=torch.float64) for _ in range(3))
    rows, columns = torch.randn(4, 4, 8).double(), torch.randn(7, 7, 8).double()
    found = rel_pos._folded_in_groups(q, k, v, rows, columns)
    torch.testing.assert_close(found, relative_attention(q, k, v, rows, columns), rtol=0, atol=1e-12)


def test_no_array_of_all_scores_is_ever_made() -> None:
    """At 24 x 24 tokens and 2 heads: nothing larger than a block, forward or backward."""
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(x))
            return out

    inputs = [torch.randn(1, 2, 576, 8, requires_grad=True) for _ in range(3)]
    tables = [torch.randn(24, 24, 8) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch, Watch():
        patch.setattr(rel_pos, "_BLOCK", 50_000)
        relative_attention(*inputs, *tables).sum().backward()
    assert 30_000 < max(sizes) <= 50_000 < 2 * 576 * 576


def test_attention_keeps_only_queries_keys_and_values() -> None:
    kept: list[int] = []
    inputs = [torch.randn(1, 2, 144, 8, requires_grad=True) for _ in range(3)]
    tables = [torch.randn(12, 12, 8) for _ in range(2)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        relative_attention(*inputs, *tables)
    assert sum(kept) <= 3 * 2 * 144 * 8 + 2 * 12 * 12 * 8


def test_fitted_positions_follow_the_stored_ones() -> None:
    encoder, _ = pair()
    encoder.requires_grad_(False)
    first = encoder.positions(4, 6)
    assert encoder.positions(4, 6) is first
    with torch.no_grad():
        encoder.pos_embed.mul_(2.0)
    torch.testing.assert_close(encoder.positions(4, 6), 2.0 * first)
    assert encoder.positions(6, 4).shape == (1, 6, 4, SMALL.dim)


@pytest.mark.parametrize("side", [3, 5, 8])
def test_relative_table_equals_the_package(side: int) -> None:
    table = torch.randn(9, 4)
    torch.testing.assert_close(relative_table(table, side), get_rel_pos(side, side, table))

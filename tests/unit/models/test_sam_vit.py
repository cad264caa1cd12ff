"""SAM's ViT against segment_anything's own ImageEncoderViT with the same random weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import add_decomposed_rel_pos, get_rel_pos
from torch import nn

from semseg_automl.models.encoders.base import Encoder
from semseg_automl.models.encoders.rel_pos import relative_attention, relative_table
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from tests.contracts.encoder_contract import EncoderContract

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


class TestContract(EncoderContract):
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


@pytest.mark.parametrize("side", [3, 5, 8])
def test_relative_table_equals_the_package(side: int) -> None:
    table = torch.randn(9, 4)
    torch.testing.assert_close(relative_table(table, side), get_rel_pos(side, side, table))

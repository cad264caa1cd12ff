"""The heads against segment_anything's mask decoder and against written-out formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d as PackageNorm
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor

from semseg_automl.core.errors import WeightsError
from semseg_automl.models import pretrained
from semseg_automl.models.decoder import HyperNetworks, MaskClassificationHead, SemanticHead
from semseg_automl.models.encoders.base import EncoderOutput, LayerNorm2d
from semseg_automl.models.pretrained import load_head

DIM, SIZES = 32, {"embed_dim": 32, "num_heads": 4, "mlp_dim": 48}
SKIPS = {4: 6, 8: 10}


def package_decoder(
    masks: int, h: int, w: int, dim: int = DIM, mlp_dim: int = 48, heads: int = 4
) -> tuple[MaskDecoder, PromptEncoder]:
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=mlp_dim, num_heads=heads)
    decoder = MaskDecoder(
        transformer_dim=dim, transformer=transformer, num_multimask_outputs=masks - 1, iou_head_hidden_dim=dim
    )
    prompts = PromptEncoder(
        embed_dim=dim, image_embedding_size=(h, w), input_image_size=(16 * h, 16 * w), mask_in_chans=16
    )
    return decoder, prompts


def published(decoder: MaskDecoder, prompts: PromptEncoder) -> dict[str, Tensor]:
    state = {f"mask_decoder.{k}": v for k, v in decoder.state_dict().items()}
    return state | {f"prompt_encoder.{k}": v for k, v in prompts.state_dict().items()}


def package_masks(decoder: MaskDecoder, prompts: PromptEncoder, embedding: Tensor) -> Tensor:
    """All masks without any prompt, one picture at a time as the package wants it: (B, K, 4h, 4w)."""
    sparse, dense = prompts(points=None, boxes=None, masks=None)
    found = [decoder.predict_masks(e[None], prompts.get_dense_pe(), sparse, dense)[0] for e in embedding]
    return torch.cat(found)


def features(h: int, w: int, batch: int = 2, dim: int = DIM) -> EncoderOutput:
    torch.manual_seed(1)
    skips = {s: torch.randn(batch, c, h * 16 // s, w * 16 // s) for s, c in SKIPS.items()}
    return EncoderOutput(torch.randn(batch, dim, h, w), skips)


@pytest.mark.parametrize("grid", [(4, 4), (3, 7)])
def test_one_output_is_sams_decoder_without_prompts(grid: tuple[int, int]) -> None:
    decoder, prompts = package_decoder(1, *grid)
    head = SemanticHead(1, **SIZES, skip_channels=SKIPS)
    load_head(head, published(decoder, prompts))
    x = features(*grid)
    torch.testing.assert_close(head(x), package_masks(decoder, prompts, x.embedding), atol=1e-5, rtol=1e-4)


def test_four_outputs_are_sams_four_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_TOKEN_NOISE", 0.0)
    decoder, prompts = package_decoder(4, 4, 4)
    head = SemanticHead(4, **SIZES)
    load_head(head, published(decoder, prompts))
    x = features(4, 4)
    torch.testing.assert_close(head(x), package_masks(decoder, prompts, x.embedding), atol=1e-5, rtol=1e-4)


def test_queries_start_apart() -> None:
    """Eight of four tokens: copies of one token differ as much as tokens do, not by a trace."""
    decoder, prompts = package_decoder(4, 4, 4)
    tensors = published(decoder, prompts)
    head = MaskClassificationHead(3, 8, **SIZES)
    load_head(head, tensors)
    size = tensors["mask_decoder.mask_tokens.weight"].std()
    parted = (head.mask_tokens[:4] - head.mask_tokens[4:]).detach().std(1) / size
    assert ((parted > 0.7) & (parted < 2.5)).all()
    semantic = SemanticHead(8, **SIZES)
    load_head(semantic, tensors)
    assert ((semantic.mask_tokens[:4] - semantic.mask_tokens[4:]).std(1) < 0.2 * size).all()


def test_sams_own_sizes() -> None:
    decoder, prompts = package_decoder(1, 2, 2, dim=256, mlp_dim=2048, heads=8)
    head = SemanticHead(1)
    load_head(head, published(decoder, prompts))
    x = features(2, 2, 1, 256)
    torch.testing.assert_close(head(x), package_masks(decoder, prompts, x.embedding), atol=1e-4, rtol=1e-4)


def test_parameter_counts_of_the_released_layout() -> None:
    count: Callable[[SemanticHead], int] = lambda head: sum(p.numel() for p in head.parameters())  # noqa: E731
    assert count(SemanticHead(1)) == 3_505_536  # AutoGluon's decoder-only number at ViT-H and ViT-B
    assert count(SemanticHead(6)) == 3_505_536 + 5 * 140_064
    assert count(SemanticHead(1, skip_channels={4: 64, 8: 128})) == 3_505_536 + 10_720


@pytest.mark.parametrize("grid", [(5, 5), (3, 8)])
def test_positions_equal_the_package(grid: tuple[int, int]) -> None:
    head, package = SemanticHead(1, **SIZES), PositionEmbeddingRandom(DIM // 2)
    head.gaussian_matrix.copy_(package.positional_encoding_gaussian_matrix)
    torch.testing.assert_close(head.positions(*grid)[0], package(grid), atol=1e-5, rtol=1e-5)


def test_hyper_networks_equal_the_packages_one_by_one() -> None:
    singles = [MLP(8, 8, 5, 3) for _ in range(3)]
    stacked = HyperNetworks(3, 8, 5)
    with torch.no_grad():
        for i, single in enumerate(singles):
            for layer in range(3):
                stacked.weights[layer][i] = single.layers[layer].weight
                stacked.biases[layer][i] = single.layers[layer].bias
    tokens = torch.randn(2, 3, 8)
    expected = torch.stack([single(tokens[:, i]) for i, single in enumerate(singles)], dim=1)
    torch.testing.assert_close(stacked(tokens), expected, atol=1e-6, rtol=1e-5)


def test_layer_norm_equals_the_package() -> None:
    ours, package = LayerNorm2d(6), PackageNorm(6)
    for norm in (ours, package):
        norm.weight.data, norm.bias.data = torch.linspace(0.5, 2, 6), torch.linspace(-1, 1, 6)
    x = 3 * torch.randn(2, 6, 4, 5) + 1
    torch.testing.assert_close(ours(x), package(x), atol=1e-5, rtol=1e-5)


def test_skips_start_without_effect_and_learn() -> None:
    head, x = SemanticHead(2, **SIZES, skip_channels=SKIPS), features(3, 4)
    before = head(x)
    other = EncoderOutput(x.embedding, {s: torch.randn_like(v) for s, v in x.skips.items()})
    assert torch.equal(before, head(other))
    before.square().sum().backward()
    for projection in head.skips.values():
        assert projection.conv.weight.grad.abs().sum() > 0


def test_classification_head_is_the_written_out_formula() -> None:
    head, x = MaskClassificationHead(3, 5, **SIZES), features(3, 4)
    masks, classes = head.queries(x)
    assert masks.shape == (2, 5, 12, 16) and classes.shape == (2, 5, 4)
    expected = torch.zeros(2, 3, 12, 16)
    for q in range(5):
        for k in range(3):
            expected[:, k] += (classes[:, q].softmax(-1)[:, k, None, None] * masks[:, q].sigmoid()).detach()
    torch.testing.assert_close(head(x), torch.log(expected + 1e-6), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("outputs", "queries"), [(1, 4), (3, 16), (11, 1)])
def test_classification_head_has_the_number_of_parameters_of_its_formula(outputs: int, queries: int) -> None:
    with torch.device("meta"):
        head = MaskClassificationHead(outputs, queries)
    expected = 3_505_280 + 256 * queries + 257 * (max(2, outputs) + 1)
    assert sum(p.numel() for p in head.parameters() if p.requires_grad) == expected


def test_binary_classification_logit_is_the_share_of_the_foreground() -> None:
    head, x = MaskClassificationHead(1, 4, **SIZES), features(3, 4)
    masks, classes = head.queries(x)
    scores = torch.einsum("bqk,bqhw->bkhw", classes.softmax(-1)[..., :2], masks.sigmoid()) + 1e-6
    logits = head(x)
    assert logits.shape == (2, 1, 12, 16)
    torch.testing.assert_close(
        logits.sigmoid(), scores[:, 1:] / scores.sum(1, keepdim=True), atol=1e-5, rtol=1e-4
    )


def test_classification_head_takes_sams_weights() -> None:
    decoder, prompts = package_decoder(4, 3, 4)
    head = MaskClassificationHead(3, 6, **SIZES, skip_channels=SKIPS)
    load_head(head, published(decoder, prompts))
    assert torch.equal(head.hyper.weights[0][0], decoder.output_hypernetworks_mlps[0].layers[0].weight)
    assert head(features(3, 4)).isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        "mask_decoder.mask_tokens.weight",
        "mask_decoder.transformer.norm_final_attn.bias",
        "mask_decoder.output_hypernetworks_mlps.2.layers.1.bias",
        "extra",
    ],
)
def test_incomplete_or_unknown_weights_are_refused(change: str) -> None:
    state = published(*package_decoder(4, 2, 2))
    if change == "extra":
        state["mask_decoder.something.weight"] = torch.zeros(1)
    else:
        del state[change]
    with pytest.raises(WeightsError):
        load_head(SemanticHead(2, **SIZES), state)


def test_more_outputs_start_from_sams_masks_but_apart_and_from_the_seed_alone() -> None:
    state = published(*package_decoder(4, 2, 2))
    heads = []
    for seed in (0, 0, 1):
        heads.append(SemanticHead(6, **SIZES))
        load_head(heads[-1], state, seed=seed)
        torch.rand(1)
    tokens = [h.mask_tokens.detach() for h in heads]
    assert torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[0], tokens[2])
    assert not torch.equal(tokens[0][0], tokens[0][4])
    source = state["mask_decoder.mask_tokens.weight"]
    assert float((tokens[0] - source[[0, 1, 2, 3, 0, 1]]).abs().max()) < 0.3 * float(source.std())


def test_autocast_leaves_the_heads_in_float32() -> None:
    head, x = SemanticHead(2, **SIZES, skip_channels=SKIPS), features(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(head(x), head.logits(x))  # which does follow autocast
        inside = head(x)
    assert inside.dtype == torch.float32 and torch.equal(inside, head(x))

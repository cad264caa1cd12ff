"""Networks beside the encoder: the contract on SAM's ViT, formulas written out, what they keep in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig, RunConfig
from semseg_automl.core.errors import ConfigError, WeightsError
from semseg_automl.models.build import build_segmenter
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder
from semseg_automl.peft import lst
from semseg_automl.peft.base import Adapter
from semseg_automl.peft.inject import inject
from semseg_automl.peft.lst import LadderSide
from semseg_automl.peft.sam_adapter import SAMAdapter, high_frequencies
from semseg_automl.peft.state import adapter_parameters, count_parameters
from tests.contracts.adapter_contract import AdapterContract, TinyEncoder, make

RANK = 2
SAM = SamViTConfig(dim=16, depth=3, heads=2, global_blocks=(0, 2), window=4, embed_dim=8, grid=4)
SIDE = lst.SideSize(dim=12, depth=3, heads=2)


@pytest.fixture(autouse=True)
def _small_side_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lst, "VIT_TINY", SIDE)


class Pictures(SamViTEncoder):
    """A tiny SAM encoder that answers with its embedding."""

    def __init__(self, _layout: str = "qkv") -> None:
        super().__init__(SAM)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(images).embedding


class CompanionContract(AdapterContract):
    """The contract of adapters, for methods that see the picture."""

    encoder_class = Pictures  # type: ignore[assignment]
    places = ()
    test_tokens_without_a_grid = None  # type: ignore[assignment]  # it takes pictures

    def maps(self) -> Tensor:
        """Pictures of 3 x 5 tokens, no whole windows."""
        return torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(3)).double()

    def test_an_encoder_without_a_place_for_it_is_refused(self) -> None:
        encoder = TinyEncoder()
        with pytest.raises(ConfigError, match="no place"):
            inject(encoder, encoder.sites(), self.config)

    def test_the_blocks_stay_frozen(self) -> None:
        encoder, _ = self.make(noise=0.3)
        encoder(self.maps()).sum().backward()
        assert all(p.grad is None for n, p in encoder.named_parameters() if not n.startswith("companion."))


class TestSAMAdapter(CompanionContract):
    config = AdapterConfig(adapter="sam_adapter", rank=RANK)

    def expected_count(self, layer: Adapter) -> int:
        r, c, s, n = RANK, SAM.dim, SAM.patch, SAM.depth
        return (r * c + r) + (3 * s * s * r + r) + n * (r * r + r) + (c * r + c)

    def test_placement_chooses_blocks(self) -> None:
        for placement, blocks in (("last_1", {"2"}), ("global", {"0", "2"}), ("all", {"0", "1", "2"})):
            _, (layer,) = self.make(dataclasses.replace(self.config, placement=placement))
            assert isinstance(layer, SAMAdapter)
            assert set(layer.tune) == blocks

    def test_formula(self) -> None:
        """Written out with the frozen blocks of a bare encoder."""
        encoder, (layer,) = self.make(noise=0.3)
        bare = Pictures().double()
        bare.load_state_dict(
            {k: v for k, v in encoder.state_dict().items() if not k.startswith("companion.")}
        )
        x = bare.stem(self.maps())
        sharp = high_frequencies(self.maps())
        patches = sharp.unfold(2, 16, 16).unfold(3, 16, 16)  # (B, 3, h, w, 16, 16)
        seen = torch.einsum("bchwij,rcij->bhwr", patches, layer.filters) + layer.filters_bias
        features = x @ layer.embed.t() + layer.embed_bias + seen
        for i, block in enumerate(bare.blocks):
            tuned = F.gelu(features @ layer.tune[str(i)].t() + layer.tune_bias[str(i)])
            x = block(x + tuned @ layer.up["16"].t() + layer.up_bias["16"])
        expected = bare.neck(x.permute(0, 3, 1, 2))
        torch.testing.assert_close(encoder(self.maps()), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(32, 32), (48, 80), (16, 128)])
def test_high_frequencies_are_those_of_the_released_code(size: tuple[int, int]) -> None:
    """NumPy's transform, the spectrum centred, the middle square of a quarter of it removed."""
    picture = torch.randn(1, 3, *size, dtype=torch.float64)
    h, w = size
    line = int((w * h * 0.25) ** 0.5 // 2)
    mask = np.zeros(size)
    mask[max(0, h // 2 - line) : h // 2 + line, max(0, w // 2 - line) : w // 2 + line] = 1
    spectrum = np.fft.fftshift(np.fft.fft2(picture.numpy()), axes=(-2, -1)) * (1 - mask)
    expected = np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(-2, -1))).real)
    np.testing.assert_allclose(high_frequencies(picture).numpy(), expected, atol=1e-12)
    assert high_frequencies(torch.full((1, 3, *size), 2.0)).abs().max() < 1e-5  # constant: nothing is sharp


class TestLadder(CompanionContract):
    config = AdapterConfig(adapter="lst")

    def expected_count(self, layer: Adapter) -> int:
        d, n, s, e = SIDE.dim, SIDE.depth, SAM.patch, SAM.embed_dim
        rungs = 2 * (SAM.dim * d + d + 1)
        network = 3 * s * s * d + d + 196 * d + n * (12 * d * d + 13 * d) + 2 * d
        return network + rungs + d * e + e

    def test_placement_chooses_blocks(self) -> None:
        """Rungs at the outputs of the placement's global blocks, else of its last block."""
        for placement, taps in (("last_1", (3,)), ("global", (1, 3)), ("all", (1, 3)), ("last_2", (3,))):
            _, (layer,) = self.make(dataclasses.replace(self.config, placement=placement))
            assert isinstance(layer, LadderSide)
            assert layer.taps == taps

    def test_formula(self) -> None:
        """Two rungs into three blocks: one block behind the first rung, two behind the second."""
        encoder, (layer,) = self.make(noise=0.3)
        assert isinstance(layer, LadderSide)
        x, seen = encoder.stem(self.maps()), []
        for block in encoder.blocks:
            x = block(x)
            seen.append(x.flatten(1, 2))
        g = F.conv2d(self.maps(), layer.patch_embed["proj"].weight, layer.patch_embed["proj"].bias, stride=16)
        g = g.flatten(2).transpose(1, 2) + layer.positions(3, 5)
        for tap, gate, rung, blocks in zip((0, 2), layer.gates, layer.down, ((0,), (1, 2)), strict=True):
            share = 1 / (1 + torch.exp(-gate / 0.1))
            g = share * rung(seen[tap]) + (1 - share) * g
            for i in blocks:
                g = layer.blocks[i](g)
        added = layer.up(layer.norm(g)).transpose(1, 2).unflatten(2, (3, 5))
        expected = encoder.neck(x.permute(0, 3, 1, 2)) + added
        torch.testing.assert_close(encoder(self.maps()), expected, rtol=0, atol=1e-11)

    def test_side_block_is_torchs_own(self) -> None:
        """Against nn.TransformerEncoderLayer with the same weights."""
        block = lst.SideBlock(SIDE).double()
        theirs = torch.nn.TransformerEncoderLayer(
            SIDE.dim,
            SIDE.heads,
            4 * SIDE.dim,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        ).double()
        names = {
            "norm1": "norm1",
            "norm2": "norm2",
            "attn.qkv": "self_attn.in_proj",
            "attn.proj": "self_attn.out_proj",
            "mlp.fc1": "linear1",
            "mlp.fc2": "linear2",
        }
        state = {}
        for ours, other in names.items():
            joint = "_" if other.endswith("in_proj") else "."
            for kind in ("weight", "bias"):
                state[f"{other}{joint}{kind}"] = block.state_dict()[f"{ours}.{kind}"]
        theirs.load_state_dict(state)
        x = torch.randn(2, 7, SIDE.dim, dtype=torch.float64)
        torch.testing.assert_close(block(x), theirs(x), rtol=0, atol=1e-10)

    def test_no_activation_of_the_encoder_needs_a_gradient(self) -> None:
        encoder, _ = self.make(noise=0.3)
        needed = []
        for block in (*encoder.blocks, encoder.neck):
            block.register_forward_hook(lambda _m, _i, out: needed.append(out.requires_grad))
        encoder(self.maps()).sum().backward()
        assert needed == [False] * 4

    def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_encoder(self) -> None:
        def kept(method: str, depth: int) -> int:
            config = dataclasses.replace(SAM, depth=depth, global_blocks=(0, depth - 1))
            encoder = SamViTEncoder(config).double()
            inject(encoder, encoder.sites(), AdapterConfig(adapter=method, rank=2))
            sizes: list[int] = []

            def count(tensor: Tensor) -> Tensor:
                sizes.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
                encoder(self.maps())
            return sum(sizes)

        assert kept("lst", 8) == kept("lst", 3)
        assert kept("lora", 8) > 2 * kept("lora", 3)


def test_the_side_network_is_a_vit_tiny() -> None:
    """As published (5,717,416) without its classifier (193,000), class token and that one's position."""
    size = lst.SideSize()
    with torch.device("meta"):
        encoder = SamViTEncoder(SamViTConfig())
    rung = 768 * 192 + 192 + 1 + 192 * 256 + 256
    layer = LadderSide({3: 768}, encoder.outline, size, torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in layer.parameters()) - rung == 5_717_416 - 193_000 - 2 * 192


def test_rungs_of_tiny_vit_are_the_last_blocks_of_each_width() -> None:
    encoder = TinyViTEncoder()
    (layer,) = inject(encoder, encoder.sites(), AdapterConfig(adapter="lst"))
    assert isinstance(layer, LadderSide)
    assert layer.taps == (2, 8, 10)  # read where the next block reads: behind the merging
    assert [rung.in_features for rung in layer.down] == [160, 320, 320]


def test_sam_adapter_has_one_up_for_each_width_of_tiny_vit() -> None:
    encoder = TinyViTEncoder()
    (layer,) = inject(encoder, encoder.sites(), AdapterConfig(adapter="sam_adapter", rank=4))
    assert isinstance(layer, SAMAdapter)
    assert list(layer.up) == ["128", "160", "320"] and len(layer.tune) == 10


def test_a_side_checkpoint_is_loaded_and_a_random_start_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = RunConfig().replace(backbone="sam_tiny", adapter="lst")
    with caplog.at_level("INFO", logger="semseg_automl"):
        segmenter = build_segmenter(config, 1)
    assert "random weights" in caplog.text
    side = segmenter.encoder.companion
    assert isinstance(side, LadderSide)
    tensors = {
        n: torch.full_like(p, 0.25)
        for n, p in side.named_parameters()
        if n.startswith(("patch_embed", "blocks", "norm"))
    }
    tensors["pos_embed"] = torch.arange(197.0)[None, :, None].expand(1, 197, SIDE.dim).clone()
    tensors["cls_token"], tensors["head.bias"] = torch.zeros(1, 1, SIDE.dim), torch.zeros(1000)
    save_file(tensors, tmp_path / "side.safetensors")
    caplog.clear()
    with caplog.at_level("INFO", logger="semseg_automl"):
        loaded = build_segmenter(config.replace(side_checkpoint=str(tmp_path / "side.safetensors")), 1)
    assert "starts from" in caplog.text and "starts from random" not in caplog.text
    side = loaded.encoder.companion
    assert isinstance(side, LadderSide)
    assert (side.blocks[1].mlp["fc1"].weight == 0.25).all() and not side.up.weight.any()
    assert side.pos_embed[0, :, 0].tolist() == list(range(1, 197))
    del tensors["norm.bias"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(WeightsError, match=r"norm\.bias"):
        build_segmenter(config.replace(side_checkpoint=str(tmp_path / "less.safetensors")), 1)
    build_segmenter(config.replace(side_checkpoint="/nowhere.safetensors"), 1, trained=True)  # not needed
    with pytest.raises(ConfigError, match="belongs to adapter='lst'"):
        build_segmenter(config.replace(side_checkpoint="x", adapter="lora"), 1)


def test_a_stem_alone_is_refused() -> None:
    segmenter = build_segmenter(RunConfig().replace(backbone="sam_tiny", adapter="sam_adapter"), 1)
    stem = segmenter.encoder.stem(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ConfigError, match="needs the picture"):
        segmenter.forward_stem(stem)


def test_companions_are_counted_by_part() -> None:
    encoder, (layer,) = make(TestSAMAdapter.config, encoder_class=Pictures)  # type: ignore[arg-type]
    counts = count_parameters(encoder)
    assert counts["adapters"] == counts["trainable.companion"] == sum(p.numel() for p in layer.parameters())
    assert all(name.startswith("companion.") for name in adapter_parameters(encoder))

"""timm's plain ViTs as encoders: the contract, timm's own numbers, every adapter, weights, refusals."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from semseg_automl.core.config import AdapterConfig, RunConfig
from semseg_automl.core.errors import ConfigError, WeightsError
from semseg_automl.models.build import build_segmenter
from semseg_automl.models.checkpoints import ResolvedWeights, resolve_weights
from semseg_automl.models.encoders import timm_vit
from semseg_automl.models.encoders.timm_vit import TimmViTEncoder
from semseg_automl.peft import lst
from semseg_automl.peft.base import AdapterLayer
from semseg_automl.peft.inject import inject
from semseg_automl.peft.registry import ADAPTERS
from semseg_automl.peft.state import adapter_parameters, adapter_state, count_parameters, load_adapter_state
from tests.contracts.encoder_contract import EncoderContract

NAME = "test_vit"  # timm's own tiny model: width 64, 6 blocks


def small(patch: int = 16, **more: object) -> VisionTransformer:
    """Width 24, two blocks, a class token and two register tokens."""
    torch.manual_seed(0)
    settings = {"class_token": True, "reg_tokens": 2, "init_values": 0.5, **more}
    vit = VisionTransformer(
        img_size=4 * patch,
        patch_size=patch,
        embed_dim=24,
        depth=2,
        num_heads=2,
        num_classes=0,
        dynamic_img_size=True,
        **settings,  # type: ignore[arg-type]
    )
    for parameter in vit.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return vit


def images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


class TestTimmViT(EncoderContract):
    def make(self) -> TimmViTEncoder:
        return TimmViTEncoder(small())


class TestPatch14(EncoderContract):
    def make(self) -> TimmViTEncoder:
        return TimmViTEncoder(small(14, reg_tokens=0, no_embed_class=True))


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_features_are_timms(size: tuple[int, int]) -> None:
    encoder = TimmViTEncoder(small()).eval()
    seen: list[Tensor] = []
    encoder.neck.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    encoder(images(*size))
    expected = small().eval().forward_features(images(*size))[:, 3:]  # without class and register tokens
    torch.testing.assert_close(seen[0].flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)


def test_other_patches_see_a_resized_picture() -> None:
    encoder = TimmViTEncoder(small(14)).eval()
    resized = torch.nn.functional.interpolate(images(48, 80), (42, 70), mode="bilinear")
    torch.testing.assert_close(encoder.stem(images(48, 80)), small(14).patch_embed(resized))


@pytest.mark.parametrize("method", ADAPTERS)
def test_every_adapter_starts_as_the_bare_encoder_and_trains(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lst, "VIT_TINY", lst.SideSize(dim=12, depth=2, heads=2))
    encoder = TimmViTEncoder(small()).double()
    with torch.no_grad():
        before = encoder(images(48, 80).double()).embedding
    inject(encoder, encoder.sites(), AdapterConfig(adapter=method, rank=2, num_experts=2))
    after = encoder.train()(images(48, 80).double()).embedding
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)
    after.square().sum().backward()
    trained = adapter_parameters(encoder)
    assert {name for name, p in encoder.named_parameters() if p.requires_grad} == set(trained)
    assert [name for name, p in trained.items() if p.grad is None] == []
    other = TimmViTEncoder(small()).double()
    inject(other, other.sites(), AdapterConfig(adapter=method, rank=2, num_experts=2), seed=1)
    with torch.no_grad():
        for parameter in trained.values():
            parameter += 0.1
    load_adapter_state(other, adapter_state(encoder))
    pictures = images(48, 80).double()
    assert torch.equal(encoder.eval()(pictures).embedding, other.eval()(pictures).embedding)


@pytest.mark.parametrize("method", ["conv_lora", "multi_scale_lora", "mona"])
def test_class_and_register_tokens_pass_convolutions_by(method: str) -> None:
    encoder = TimmViTEncoder(small()).double()
    config = AdapterConfig(adapter=method, rank=2, num_experts=2)
    layers = [x for x in inject(encoder, encoder.sites(), config) if isinstance(x, AdapterLayer)]
    for parameter in adapter_parameters(encoder).values():
        parameter.data += 0.1
    encoder(images(48, 80).double())
    owner = encoder.get_submodule(layers[0].site.module_path.rpartition(".")[0])
    x = torch.randn(1, 3 + 15, 24, dtype=torch.float64)
    changed = (owner(x) - layers[0].base(x)).abs().sum(-1)[0]
    assert (changed[:3] < 1e-12).all() and (changed[3:] > 1e-3).all()


@pytest.mark.parametrize("method", ["lora", "conv_lora", "vpt", "lst"])
@pytest.mark.parametrize("other", [(80, 48), (48, 48), (48, 80)], ids=str)
def test_a_pass_in_another_thread_leaves_this_one_alone(
    method: str, other: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one picture is in the midst of the blocks a whole pass of another runs beside it."""
    monkeypatch.setattr(lst, "VIT_TINY", lst.SideSize(dim=12, depth=2, heads=2))
    encoder = TimmViTEncoder(small()).eval()
    inject(encoder, encoder.sites(), AdapterConfig(adapter=method, rank=2, num_experts=2))
    for parameter in adapter_parameters(encoder).values():
        parameter.data += 0.1
    results: list[Tensor] = []

    def run(size: tuple[int, int]) -> None:
        with torch.no_grad():
            results.append(encoder(images(*size)).embedding)

    def meanwhile(*_arguments: object) -> None:
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=run, args=(other,))
            thread.start()
            thread.join()

    run((48, 80))
    run(other)
    for layer in (
        encoder.vit.blocks[0],
        encoder.vit.blocks[1].attn.qkv,
    ):  # between blocks, within an attention
        handle = layer.register_forward_hook(meanwhile)
        run((48, 80))
        handle.remove()
        beside, interrupted = results[-2:]
        assert torch.equal(interrupted, results[0]) and torch.equal(beside, results[1])


def test_the_neck_is_trained_and_stored_with_every_adapter() -> None:
    for method in ("decoder_only", "lora"):
        encoder = TimmViTEncoder(small())
        inject(encoder, encoder.sites(), AdapterConfig(adapter=method, placement="last_1"))
        neck = {f"neck.{name}" for name, _ in encoder.neck.named_parameters()}
        assert neck <= set(adapter_state(encoder))
        assert all(p.requires_grad for p in encoder.neck.parameters())
        assert not any(p.requires_grad for p in encoder.vit.blocks[0].parameters())
        assert count_parameters(encoder)["trainable.neck"] == 256 * 24 + 9 * 256**2 + 4 * 256


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "no plain ViT"),
        ("samvit_base_patch16", "use sam_vit_b"),
        ("vit_small_patch16_dinov3", "rotary"),
        ("no_such_vit", "no model"),
        ("vit_tinny_patch16_224", "Did you mean 'vit_tiny_patch16_224'"),
        ("vit_tiny_patch16_224.nope", "no weights 'nope' .* but augreg_in21k"),
        ("vit_large_patch14_xp_224", "not those of a plain ViT"),  # attention and MLP in one block, parallel
        ("vit_small_patch16_18x2_224", "not those of a plain ViT"),  # two attentions a block
        ("vit_dpwee_patch16_reg1_gap_256", "not those of a plain ViT"),
        ("vit_dlittle_patch16_reg1_gap_256", "not those of a plain ViT"),  # differential attention
        ("vit_dwee_patch16_reg1_gap_256", "not those of a plain ViT"),
        ("aimv2_large_patch14_224", "not those of a plain ViT"),  # an MLP of three Linears
    ],
)
def test_other_models_are_refused_with_the_reason(name: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        timm_vit.create(name)


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:vit_tinny_patch16_224"])
def test_names_are_judged_before_weights_are_looked_for(name: str) -> None:
    with pytest.raises(ConfigError):
        resolve_weights(name)


@pytest.mark.parametrize("name", ["vit_giant_patch14_dinov2", "beit3_base_patch16_224"])
def test_sites_say_what_stands_within_the_mlp(name: str) -> None:
    with torch.device("meta"):
        sites = TimmViTEncoder(timm_vit.create(name)).sites()
    assert not any(site.plain_mlp for site in sites)
    assert all(site.plain_mlp for site in TimmViTEncoder(small()).sites())


MLPS: dict[str, dict[str, object]] = {
    "gate": {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU},
    "norm": {"scale_mlp_norm": True},
}


@pytest.mark.parametrize("mlp", MLPS)
@pytest.mark.parametrize("method", [name for name in ADAPTERS if "mlp_in" in ADAPTERS[name].roles])
def test_methods_within_an_mlp_that_is_not_plain(method: str, mlp: str) -> None:
    """Hidden units can't be added to it; changes of its Linears start as the bare encoder and train."""
    encoder = TimmViTEncoder(small(**MLPS[mlp])).double()
    targets = ("mlp",) if ADAPTERS[method].targets else None
    config = AdapterConfig(adapter=method, rank=2, num_experts=2, targets=targets)
    if method == "parallel_adapter":
        with pytest.raises(ConfigError, match="a gate or a norm"):
            inject(encoder, encoder.sites(), config)
        return
    with torch.no_grad():
        before = encoder(images(32, 48).double()).embedding
    inject(encoder, encoder.sites(), config)
    after = encoder(images(32, 48).double()).embedding
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)
    after.square().sum().backward()
    assert all(p.grad is not None for p in adapter_parameters(encoder).values())


def test_weights_come_from_a_local_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMSEG_AUTOML_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("SEMSEG_AUTOML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsError, match=rf"timm_{NAME}\.safetensors"):
        resolve_weights(f"timm:{NAME}")
    vit = timm_vit.create(NAME)
    tensors = {n: torch.randn_like(v) * 0.02 for n, v in vit.state_dict().items()}
    tensors["head.weight"] = torch.zeros(10, 64)
    save_file(tensors, tmp_path / f"timm_{NAME}.safetensors")
    weights = resolve_weights(f"timm:{NAME}", download=False)
    assert weights.name == f"timm:{NAME}" and weights.path == tmp_path / f"timm_{NAME}.safetensors"
    config = RunConfig().replace(backbone=f"timm:{NAME}", adapter="lora")
    segmenter = build_segmenter(config, 3, weights=weights)
    with torch.no_grad():
        assert segmenter(images(32, 48)).shape == (2, 3, 8, 12)
    assert torch.equal(segmenter.encoder.vit.pos_embed, tensors["pos_embed"])
    kept = ResolvedWeights.in_memory(f"timm:{NAME}", weights.load())
    assert kept.sha256 == weights.sha256
    del tensors["blocks.0.attn.qkv.weight"]
    save_file(tensors, tmp_path / f"timm_{NAME}.safetensors")
    with pytest.raises(WeightsError, match="1 missing"):
        resolve_weights(f"timm:{NAME}", download=False)

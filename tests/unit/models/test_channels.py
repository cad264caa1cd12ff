"""Encoders for pictures of more than three channels."""

from __future__ import annotations

import pytest
import torch

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError, ConfigError
from semseg_automl.models.build import SAM_TINY, build_segmenter
from semseg_automl.models.encoders.base import Encoder
from semseg_automl.models.encoders.channels import extend_input
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from semseg_automl.models.encoders.timm_vit import TimmViTEncoder, create
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder
from semseg_automl.peft.state import adapter_state

SMALL_VIT = SamViTConfig(dim=32, depth=2, heads=2, global_blocks=(1,), window=2, grid=4, embed_dim=16)
MAKERS = {
    "tiny_vit": lambda: TinyViTEncoder(SAM_TINY),
    "sam_vit": lambda: SamViTEncoder(SMALL_VIT),
    "timm": lambda: TimmViTEncoder(create("test_vit")),
}


@pytest.mark.parametrize("channels", [4, 6, 16])
@pytest.mark.parametrize("kind", MAKERS)
def test_at_first_the_further_channels_change_nothing_then_they_do(kind: str, channels: int) -> None:
    torch.manual_seed(0)
    encoder, images = MAKERS[kind]().eval().requires_grad_(False), torch.randn(2, channels, 64, 32)
    before, stored = encoder(images[:, :3]).embedding, adapter_state(encoder).keys()  # timm's: the neck
    extend_input(encoder, channels)
    assert encoder.in_channels == channels
    torch.testing.assert_close(encoder(images).embedding, before, rtol=0, atol=0)
    (name, weight), *others = [(n, p) for n, p in encoder.named_parameters() if p.requires_grad]
    assert not others and adapter_state(encoder).keys() - stored == {name}
    encoder(images).embedding.square().sum().backward()
    assert weight.grad is not None and weight.grad.abs().max() > 0
    with torch.no_grad():
        weight.add_(weight.grad)
    assert not torch.allclose(encoder(images).embedding, before)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_extended_layer_is_one_wider_convolution(kind: str) -> None:
    torch.manual_seed(0)
    encoder, images = MAKERS[kind]().eval(), torch.randn(1, 5, 32, 32)
    extend_input(encoder, 5)
    layer = encoder.get_submodule(encoder.input_path)
    torch.nn.init.normal_(layer.extra.weight)
    kernel = torch.cat([layer.rgb.weight, layer.extra.weight], dim=1)
    stride, padding = layer.extra.stride, layer.extra.padding
    expected = torch.nn.functional.conv2d(images, kernel, layer.rgb.bias, stride, padding)
    torch.testing.assert_close(layer(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adapter", ["conv_lora", "decoder_only", "full"])
def test_a_trained_input_is_stored_and_loaded_strictly(adapter: str) -> None:
    config = RunConfig().replace(backbone="sam_tiny", adapter=adapter)
    one, two = (build_segmenter(config, 2, channels=6) for _ in range(2))
    (name,) = (n for n, _ in one.encoder.named_parameters() if n.endswith("extra.weight"))
    with torch.no_grad():
        one.encoder.get_parameter(name).normal_()
    state = one.trainable_state()
    assert name in state[0] and one.encoder.get_parameter(name).requires_grad
    images = torch.randn(1, 6, 32, 32)
    two.load_trainable_state(*state)
    assert torch.equal(one(images), two(images)) and one.in_channels == 6
    with pytest.raises(ArtifactError, match=r"unknown: |shape of"):
        build_segmenter(config, 2).load_trainable_state(*state)


def test_encoders_that_cannot_be_extended_say_so() -> None:
    with pytest.raises(ConfigError, match="Encoder can't take pictures of 4 channels"):
        extend_input(Encoder(), 4)
    with pytest.raises(ConfigError, match="2 channels"):
        extend_input(TinyViTEncoder(SAM_TINY), 2)

"""What every encoder must keep to: inherit from EncoderContract and implement ``make``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.models.encoders.base import Encoder
from semseg_automl.peft.inject import inject


class EncoderContract:
    """Sizes, sites, skips, freezing and adapters of an encoder."""

    def make(self) -> Encoder:
        """A small encoder with random weights, position tables included."""
        raise NotImplementedError  # abstract: each test class defines it

    @pytest.mark.parametrize("size", [(64, 64), (48, 112), (16, 32)])
    def test_strides_and_channels(self, size: tuple[int, int]) -> None:
        encoder = self.make()
        out = encoder(torch.randn(2, 3, *size))
        assert out.embedding.shape == (2, encoder.embed_dim, size[0] // 16, size[1] // 16)
        assert {s: m.shape[1] for s, m in out.skips.items()} == encoder.skip_channels
        for stride, skip in out.skips.items():
            assert skip.shape[2:] == (size[0] // stride, size[1] // stride)

    @pytest.mark.parametrize("size", [(40, 64), (64, 8), (0, 64)])
    def test_wrong_size_is_refused(self, size: tuple[int, int]) -> None:
        with pytest.raises(ConfigError, match="multiples of 16"):
            self.make()(torch.zeros(1, 3, *size))

    def test_pictures_of_a_batch_are_independent(self) -> None:
        encoder, images = self.make(), torch.randn(2, 3, 48, 64)
        both, one = encoder(images).embedding, encoder(images[1:]).embedding
        torch.testing.assert_close(both[1:], one, atol=1e-5, rtol=1e-5)

    def test_sites_are_linear_layers_of_the_stated_shape(self) -> None:
        encoder = self.make()
        sites = encoder.sites()
        assert len({s.module_path for s in sites}) == len(sites)
        assert {s.block for s in sites} == set(range(sites[0].n_blocks))
        for site in sites:
            linear = encoder.get_submodule(site.module_path)
            assert isinstance(linear, nn.Linear)
            if site.kind == "qkv":
                assert linear.out_features == 3 * site.heads * site.head_dim

    def test_stem_then_tail_is_forward_and_frozen_stem_has_no_graph(self) -> None:
        encoder, images = self.make(), torch.randn(1, 3, 32, 48)
        inject(encoder, encoder.sites(), AdapterConfig(adapter="lora"))
        stem = encoder.stem(images)
        assert not stem.requires_grad
        assert torch.equal(encoder.tail(stem).embedding, encoder(images).embedding)
        assert encoder(images).embedding.requires_grad

    @pytest.mark.parametrize("scope", ["image", "window"])
    def test_adapters_start_as_identity_and_every_one_gets_a_gradient(self, scope: str) -> None:
        encoder, images = self.make(), torch.randn(1, 3, 48, 64)
        with torch.no_grad():
            before = encoder(images).embedding
        config = AdapterConfig(num_experts=2, gate_scope=scope, window_padding=scope)
        layers = inject(encoder, encoder.sites(), config)
        after = encoder.train()(images).embedding
        torch.testing.assert_close(after, before, atol=2e-4, rtol=1e-4)
        (after * torch.randn_like(after)).sum().backward()
        for layer in layers:
            assert layer.up.grad is not None and layer.up.grad.abs().sum() > 0

    def test_checkpointing_changes_no_number(self) -> None:
        encoder, images = self.make(), torch.randn(1, 3, 48, 64)
        layers = inject(encoder, encoder.sites(), AdapterConfig(adapter="lora"))
        gradients = []
        for encoder.gradient_checkpointing in (False, True):
            encoder.zero_grad()
            encoder(images).embedding.square().sum().backward()
            gradients.append(layers[0].up.grad.clone())
        torch.testing.assert_close(*gradients)

    def test_training_after_inference_mode(self) -> None:
        encoder, images = self.make(), torch.randn(1, 3, 48, 64)
        inject(encoder, encoder.sites(), AdapterConfig(adapter="lora"))
        with torch.inference_mode():
            encoder(images)
        encoder(images).embedding.sum().backward()


class CutContract:
    """What an encoder keeps to that can be cut below any block."""

    def make(self) -> Encoder:
        """As :meth:`EncoderContract.make`."""
        raise NotImplementedError  # abstract: each test class defines it

    def test_lower_then_upper_is_forward_at_every_block(self) -> None:
        encoder, images = self.make(), torch.randn(2, 3, 32, 48)
        expected = encoder(images)
        for cut in range(encoder.depth + 1):
            features = encoder.lower(images, cut)
            assert all(x.is_contiguous() and len(x) == 2 for x in features.values())
            found = encoder.upper(features, cut)
            assert torch.equal(found.embedding, expected.embedding)
            assert all(torch.equal(found.skips[s], x) for s, x in expected.skips.items())

    @pytest.mark.parametrize("placement", ["all", "last_1", "last_2"])
    def test_nothing_below_the_first_trained_block_has_a_graph(self, placement: str) -> None:
        encoder, images = self.make(), torch.randn(1, 3, 32, 48)
        assert encoder.first_trained() == -1
        inject(encoder, encoder.sites(), AdapterConfig(adapter="lora", placement=placement))
        cut = encoder.first_trained()
        assert cut == (0 if placement == "all" else encoder.depth - int(placement[-1]))
        assert not any(x.requires_grad for x in encoder.lower(images, cut).values())
        assert encoder(images).embedding.requires_grad
        encoder.requires_grad_(False)
        assert encoder.first_trained() == encoder.depth

    def test_every_parameter_belongs_to_a_block(self) -> None:
        """A change to a parameter is seen above its block, and nowhere below it."""
        encoder, images = self.make(), torch.randn(1, 3, 32, 48)
        for name, parameter in list(encoder.named_parameters()):
            block = encoder.block_of(name)
            assert -1 <= block < encoder.depth
            if block > 0:
                before = encoder.lower(images, block)
                parameter.data.add_(1.0)
                after = encoder.lower(images, block)
                assert all(torch.equal(after[k], x) for k, x in before.items()), name
                parameter.data.sub_(1.0)

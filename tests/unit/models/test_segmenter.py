"""Building, training, storing and restoring the whole network; logits at the picture's size."""

from __future__ import annotations

import time

import pytest
import torch
from segment_anything import sam_model_registry

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError, ConfigError, WeightsError
from semseg_automl.data.preprocess import plan_geometry
from semseg_automl.models.build import build_segmenter
from semseg_automl.models.checkpoints import ResolvedWeights
from semseg_automl.models.postprocess import logits_to_original, probabilities
from semseg_automl.models.pretrained import UNUSED_PREFIXES
from semseg_automl.models.segmenter import Segmenter

TINY = RunConfig().replace(backbone="sam_tiny", num_experts=2, rank=4)


def tiny(num_outputs: int = 1, seed: int = 0, **changes: object) -> Segmenter:
    return build_segmenter(TINY.replace(**changes), num_outputs, seed=seed)


@pytest.mark.parametrize("head", ["semantic", "mask_classification"])
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_logits_at_a_quarter_of_the_size(head: str, num_outputs: int) -> None:
    logits = tiny(num_outputs, head=head)(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, num_outputs, 16, 24) and logits.isfinite().all()


def test_adapters_and_head_train_and_nothing_else() -> None:
    segmenter = tiny().train()
    segmenter(torch.randn(2, 3, 64, 64)).square().sum().backward()
    with_gradient = {n for n, p in segmenter.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, p in segmenter.named_parameters() if p.requires_grad}
    assert all(n.startswith("decoder.") or ".attn.qkv." in n for n in with_gradient)
    adapters, head = segmenter.adapter_parameters(), segmenter.head_parameters()
    assert adapters and head and len(segmenter.trainable_parameters()) == len(adapters) + len(head)
    report = segmenter.parameter_report()
    assert report["adapters"] == sum(p.numel() for p in adapters)
    assert report["trainable.decoder"] == sum(p.numel() for p in head)


def test_decoder_only_trains_the_head() -> None:
    segmenter = tiny(adapter="decoder_only")
    assert segmenter.adapters == [] and segmenter.adapter_parameters() == []
    assert segmenter.trainable_state()[0] == {}


def test_state_round_trip_is_bit_equal_and_independent_of_the_seed() -> None:
    first, second = tiny(3), tiny(3, seed=5)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for parameter in first.trainable_parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    adapter, head = first.trainable_state()
    assert not torch.equal(first(images), second(images))
    second.load_trainable_state(adapter, head)
    assert torch.equal(first(images), second(images))


def test_a_state_that_does_not_fit_is_refused() -> None:
    adapter, head = tiny(3).trainable_state()
    with pytest.raises(ArtifactError, match="head"):
        tiny(2).load_trainable_state(adapter, head)
    with pytest.raises(ArtifactError, match="adapter"):
        tiny(3, rank=2).load_trainable_state(adapter, head)


def test_a_head_moves_to_other_classes() -> None:
    old, new = tiny(3), tiny(4, seed=1)
    (adapter, stored), own = old.trainable_state(), new.trainable_state()[1]
    mapped = new.map_head_state(stored, [2, -1, 0, 1])
    new.load_trainable_state(adapter, mapped)
    assert torch.equal(mapped["mask_tokens"][[0, 2, 3]], stored["mask_tokens"][[2, 0, 1]])
    assert torch.equal(mapped["hyper.weights.1"][1], own["hyper.weights.1"][1])
    for source in ([0, 1, 2, 3], [0, 1, 2]):
        with pytest.raises(ArtifactError):
            new.map_head_state(stored, source)
    same, images = tiny(3, seed=2), torch.randn(1, 3, 64, 64)
    same.load_trainable_state(adapter, same.map_head_state(stored, [2, 0, 1]))
    torch.testing.assert_close(same(images), old(images)[:, [2, 0, 1]], atol=1e-4, rtol=1e-3)


def test_building_depends_on_the_seed_alone_and_leaves_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = tiny(2, seed=1)
    assert torch.equal(torch.rand(1), expected)
    second, other = tiny(2, seed=1), tiny(2, seed=2)
    states = [{**s.state_dict()} for s in (first, second, other)]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    encoder = [k for k in states[0] if k.startswith("encoder.") and ".base." not in k and "attn.qkv" not in k]
    assert all(
        torch.equal(states[0][k], states[2][k]) for k in encoder
    )  # the tiny backbone has one fixed seed
    assert not torch.equal(states[0]["decoder.mask_tokens"], states[2]["decoder.mask_tokens"])


def test_the_lower_part_can_be_cached() -> None:
    segmenter, images = tiny(2), torch.randn(2, 3, 64, 64)
    for cut in range(segmenter.encoder.depth + 1):
        features = segmenter.encoder.lower(images, cut)
        assert torch.equal(segmenter.forward_upper(features, cut), segmenter(images))


def test_stem_can_be_cached() -> None:
    segmenter, images = tiny(2), torch.randn(2, 3, 64, 64)
    assert torch.equal(segmenter.forward_stem(segmenter.encoder.stem(images)), segmenter(images))


@pytest.mark.timing
def test_tiny_is_fast() -> None:
    torch.set_num_threads(1)  # the fixture of conftest gives them back
    segmenter, images = tiny().train(), torch.randn(1, 3, 64, 64)
    times = []
    for _ in range(8):
        started = time.perf_counter()
        segmenter(images).sum().backward()
        times.append(time.perf_counter() - started)
    assert min(times) < 0.05


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="mask_classification"):
        tiny(head="mask_clasification")
    with pytest.raises(ConfigError, match="num_outputs"):
        tiny(0)
    with pytest.raises(ConfigError, match="sam_tiny"):
        tiny(backbone="sam_tinny")


def test_published_vit_b_layout_loads_strictly() -> None:
    torch.manual_seed(0)
    sam = sam_model_registry["vit_b"]()
    tensors = sam.state_dict()
    weights = ResolvedWeights(name="sam_vit_b", source="test", path=None, sha256="", tensors=tensors)
    segmenter = build_segmenter(TINY.replace(backbone="sam_vit_b"), 1, weights=weights)
    used = {"image_encoder.", "mask_decoder.", "prompt_encoder.no_mask_embed", "prompt_encoder.pe_layer"}
    assert all(k.startswith((*used, *UNUSED_PREFIXES)) for k in tensors if not k.startswith("pixel_"))
    assert len(segmenter.adapters) == 12
    assert segmenter.parameter_report()["trainable.decoder"] == 3_505_536
    with torch.no_grad():
        logits = segmenter(torch.randn(1, 3, 64, 96))
    assert logits.shape == (1, 1, 16, 24) and logits.isfinite().all()
    broken = {k: v for k, v in tensors.items() if k != "image_encoder.blocks.3.attn.rel_pos_h"}
    with pytest.raises(WeightsError, match=r"blocks\.3\.attn\.rel_pos_h"):
        build_segmenter(
            TINY,
            1,
            weights=ResolvedWeights(name="sam_vit_b", source="test", path=None, sha256="", tensors=broken),
        )


@pytest.mark.weights
def test_mobile_sam_builds_from_the_weights_folder() -> None:
    segmenter = build_segmenter(TINY.replace(backbone="mobile_sam"), 11)
    assert len(segmenter.adapters) == 10
    with torch.no_grad():
        assert segmenter(torch.randn(1, 3, 64, 96)).isfinite().all()


def test_logits_come_back_to_the_picture() -> None:
    geometry = plan_geometry((50, 90), 64, 32)  # resized to 36 x 64, padded to 64 x 64
    assert geometry.padded == (64, 64)
    rows = torch.arange(16.0)[:, None].expand(16, 16)  # stride 4, a ramp downwards
    found = logits_to_original(torch.stack([rows, rows.t()]), geometry)
    assert found.shape == (2, 50, 90)
    centre = (torch.arange(50) + 0.5) * geometry.resized[0] / 50 / 4 - 0.5  # the same point at stride 4
    torch.testing.assert_close(found[0, 5:45, 3], centre[5:45], atol=0.05, rtol=0)
    centre = (torch.arange(90) + 0.5) * geometry.resized[1] / 90 / 4 - 0.5
    torch.testing.assert_close(found[1, 3, 5:85], centre[5:85], atol=0.05, rtol=0)


@pytest.mark.parametrize("outputs", [1, 4])
def test_probabilities_sum_to_one(outputs: int) -> None:
    logits = 30 * torch.randn(outputs, 5, 6)
    found = probabilities(logits)
    assert found.shape == (max(2, outputs), 5, 6)
    torch.testing.assert_close(found.sum(0), torch.ones(5, 6))
    if outputs == 1:
        torch.testing.assert_close(found[1], logits[0].sigmoid())


def test_outputs_of_another_model_are_mapped_by_class() -> None:
    """Old classes keep their logits whatever the order, new ones start as this model would."""
    old, new = tiny(3), tiny(4, seed=5)
    with torch.no_grad():
        for parameter in old.trainable_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    adapter, head = old.trainable_state()
    fresh = new.trainable_state()[1]
    mapped = new.map_head_state(head, [2, 0, -1, 1])
    assert all(torch.equal(v, new.trainable_state()[1][k]) for k, v in fresh.items())  # nothing is loaded
    assert torch.equal(mapped["mask_tokens"][:2], head["mask_tokens"][[2, 0]])
    for name in ("mask_tokens", "hyper.weights.0", "hyper.biases.2"):
        assert torch.equal(mapped[name][2], fresh[name][2])
    new.load_trainable_state(adapter, mapped)
    # one class alone: its token meets itself only, so its logits are exactly the old model's
    single_old, single_new = tiny(1), tiny(1, seed=3)
    for segmenter, source in ((single_old, [1]), (single_new, [3])):
        state = head if segmenter is single_old else mapped
        segmenter.load_trainable_state(adapter, segmenter.map_head_state(state, source))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(single_old(images), single_new(images))


def test_mapping_the_identity_changes_nothing() -> None:
    head = tiny(3).trainable_state()[1]
    mapped = tiny(3, seed=9).map_head_state(head, [0, 1, 2])
    assert mapped.keys() == head.keys() and all(torch.equal(mapped[k], v) for k, v in head.items())


@pytest.mark.parametrize("source", [[0, 1], [0, 1, 2, 3], [0, 1, 3], [0, 1, -2]])
def test_a_mapping_that_does_not_fit_is_refused(source: list[int]) -> None:
    head = tiny(3).trainable_state()[1]
    with pytest.raises(ArtifactError, match="3 outputs can't be taken from"):
        tiny(3).map_head_state(head, source)


def test_only_heads_with_an_output_per_class_can_be_mapped() -> None:
    queries = tiny(3, head="mask_classification")
    with pytest.raises(ArtifactError, match="Only head='semantic'"):
        queries.map_head_state(queries.trainable_state()[1], [0, 1, 2])
    with pytest.raises(ArtifactError, match="classifier"):
        tiny(3).map_head_state(queries.trainable_state()[1], [0, 1, 2])

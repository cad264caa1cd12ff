"""Training from kept features: the same result, nothing frozen computed twice, no stale entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from semseg_automl.core.config import RunConfig
from semseg_automl.data.augment import Augment
from semseg_automl.training.feature_cache import attach_cache, forms, share_of_whole, worth_caching
from semseg_automl.training.feature_store import FeatureStore
from semseg_automl.training.fit import make_datasets, make_segmenter, train
from semseg_automl.training.job import ModelState, TrainJob, TrainResult

Make = Callable[..., TrainJob]
SETUPS: dict[str, dict[str, Any]] = {
    "decoder_only": {"adapter": "decoder_only"},
    "last block": {"placement": "last_1"},
    "conv_lora everywhere": {},
}


def tensors(model: ModelState) -> dict[str, torch.Tensor]:
    return {**model.adapter, **model.head}


class Counter:
    """Counts the pictures that pass the patch embedding of every segmenter made in a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures = 0
        from semseg_automl.models.encoders.tiny_vit import PatchEmbed

        real = PatchEmbed.forward

        def counted(embed: PatchEmbed, x: torch.Tensor) -> torch.Tensor:
            self.pictures += len(x)
            return real(embed, x)

        monkeypatch.setattr(PatchEmbed, "forward", counted)

    def during(self, job: TrainJob) -> tuple[TrainResult, int]:
        before = self.pictures
        return train(job), self.pictures - before


@pytest.mark.parametrize("name", SETUPS)
def test_training_from_kept_features_is_training(
    name: str, make_job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cold and warm stores to the bit; no store to the rounding of products of other batch sizes."""
    job = make_job(augment="light", max_epochs=4, optimizer="sgd", **SETUPS[name])
    counter = Counter(monkeypatch)
    plain, computed = counter.during(job)
    cold, first = counter.during(replace(job, feature_cache=str(tmp_path)))
    warm, second = counter.during(replace(job, feature_cache=str(tmp_path), seed=job.seed))
    # 8 training pictures in 2 forms, 4 validation pictures; without a cache each at every visit
    assert first <= 8 * 2 + 4 and second == 0 and computed >= 4 * 8 + 4
    assert tensors(plain.model).keys() == tensors(cold.model).keys() == tensors(warm.model).keys()
    for key, value in tensors(cold.model).items():
        assert torch.equal(value, tensors(warm.model)[key]), key
        torch.testing.assert_close(value, tensors(plain.model)[key], atol=1e-5, rtol=1e-4)
    assert cold.score == warm.score == pytest.approx(plain.score, abs=0.02)


def test_without_augmentation_only_the_first_epoch_computes(
    make_job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(adapter="decoder_only", augment="none", max_epochs=3, feature_cache=str(tmp_path))
    assert Counter(monkeypatch).during(job)[1] == 8 + 4


def test_bfloat16_features_stay_bfloat16(make_job: Make, tmp_path: Path) -> None:
    job = make_job(
        adapter="decoder_only", augment="none", precision="bf16-mixed", feature_cache=str(tmp_path)
    )
    results = [train(job) for _ in range(2)]
    assert results[0].score == results[1].score
    (path, *_) = [p for p in tmp_path.rglob("*") if p.is_file()]
    maps = FeatureStore(tmp_path).get(path.parent.name + path.name)
    assert maps is not None and maps["embedding"].dtype == torch.bfloat16


def test_a_full_disk_slows_training_and_does_not_end_it(
    make_job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semseg_automl.training.feature_store.os.replace", full)
    job = make_job(adapter="decoder_only", augment="none", max_epochs=2, feature_cache=str(tmp_path))
    assert train(job).steps == 4
    warnings = [
        r.message for r in caplog.records if "Feature cache" in r.message and r.levelname == "WARNING"
    ]
    assert len(warnings) == 1 and "No space left" in warnings[0]


def entries(job: TrainJob, folder: Path, change: Callable[[Any], None] = lambda _s: None) -> set[str]:
    """Names of the entries that one training picture leaves."""
    segmenter = make_segmenter(job)
    change(segmenter)
    cache = attach_cache(segmenter, replace(job, feature_cache=str(folder)))
    assert cache is not None
    cache(make_datasets(job)[0][0]["image"][None])
    return {p.parent.name + p.name for p in folder.rglob("*") if p.is_file()}


def test_whatever_changes_the_features_changes_their_name(make_job: Make, tmp_path: Path) -> None:
    base = make_job(augment="none", placement="last_1")

    def reweight(segmenter: Any) -> None:
        segmenter.encoder.patch_embed.seq[0].bias.data[0] += 1e-3

    def retune(segmenter: Any) -> None:
        segmenter.adapters[0].down.data += 1.0
        segmenter.decoder.mask_tokens.data += 1.0

    variants = {
        "as it is": entries(base, tmp_path / "a"),
        "again": entries(base, tmp_path / "b"),
        "other trained weights": entries(base, tmp_path / "c", retune),
        "other frozen weights": entries(base, tmp_path / "d", reweight),
        "other block": entries(make_job(augment="none", placement="last_2"), tmp_path / "e"),
        "other size": entries(make_job(augment="none", placement="last_1", image_size=96), tmp_path / "f"),
        "other precision": entries(replace(base, precision="bf16-mixed"), tmp_path / "g"),
        "other picture": entries(replace(base, train=base.train.subset([1])), tmp_path / "h"),
    }
    names = [next(iter(v)) for v in variants.values()]
    assert all(len(v) == 1 for v in variants.values())
    assert len(set(names[:3])) == 1 and len({names[0], *names[3:]}) == 6


@pytest.mark.parametrize("change", [{"adapter": "full"}, {"adapter": "lst"}, {"augment": "medium"}])
def test_models_that_can_not_be_served_train_without(
    change: dict[str, str], make_job: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(max_steps=2, feature_cache=str(tmp_path), **change)
    with caplog.at_level("INFO", "semseg_automl"):
        assert train(job).steps == 2
    assert not list(tmp_path.iterdir()) and "No feature cache for this model" in caplog.text


def test_forms() -> None:
    both = Augment(horizontal_flip=0.5, vertical_flip=0.5)
    assert [forms(a) for a in ("none", "light", both, Augment(horizontal_flip=1.0))] == [1, 2, 4, 1]
    assert [forms(a) for a in ("medium", "strong", Augment(contrast=0.1), lambda i, m, r: (i, m))] == [
        None
    ] * 4


def test_share_of_whole() -> None:
    sizes = [(100, 200), (200, 200), (50, 200)]
    assert share_of_whole(sizes, 64, None) == 1.0 and share_of_whole(sizes, 64, 64) == 1.0
    assert share_of_whole(sizes, 64, (32, 64)) == pytest.approx(2 / 3)
    assert share_of_whole(sizes, 64, 32) == 0.0


@pytest.mark.parametrize(
    ("changes", "epochs", "accelerator", "expected", "words"),
    [
        ({"augment": "light"}, 30, "cpu", True, "seen some 30 times, in 2 form"),
        ({"augment": "light"}, 3, "cpu", False, "seen some 3 times, in 2 form"),
        ({"augment": "none"}, 3, "cpu", True, "in 1 form"),
        ({"augment": "medium"}, 300, "cpu", False, "augment 'medium'"),
        ({"augment": "light", "crop_size": 256}, 30, "cpu", False, "hold 0% of the pictures whole"),
        ({"augment": "light", "adapter": "full"}, 30, "cpu", False, "whole encoder is trained"),
        ({"augment": "light", "small_share": 0.9}, 30, "cpu", False, "seen some 3 times, in 2 form"),
        ({"augment": "light", "adapter": "lst"}, 30, "cpu", False, "lst reads the picture"),
        ({"augment": "light", "backbone": "timm:vit_tiny_patch16_224"}, 30, "cpu", False, "not cut"),
        ({"augment": "light", "backbone": "sam_vit_b"}, 30, "cpu", False, "only the patch embedding"),
        ({"augment": "light"}, 30, "cuda", False, "only what lies above block 0"),
        ({"augment": "light", "placement": "last_4"}, 30, "cuda", True, "are kept"),
    ],
)
def test_when_it_pays(
    changes: dict[str, Any], epochs: float, accelerator: str, expected: bool, words: str
) -> None:
    config = RunConfig().replace(**changes)
    kept, reason = worth_caching(config, [(300, 400)] * 5, epochs, accelerator)
    assert kept is expected and words in reason


def test_still_pictures_lie_in_one_place_and_larger_ones_are_cropped_as_before(make_job: Make) -> None:
    job = make_job(augment="light", image_size=80, crop_size=(96, 96))
    moving, _ = make_datasets(job)
    still, _ = make_datasets(replace(job, feature_cache="somewhere"))
    looks = {tuple(still[epoch, 0]["image"].flatten().tolist()) for epoch in range(8)}
    assert len(looks) == 2 < len({tuple(moving[epoch, 0]["image"].flatten().tolist()) for epoch in range(8)})
    assert still[0, 0]["image"].shape == moving[0, 0]["image"].shape == (3, 96, 96)
    assert bool((still[0, 0]["mask"][64:] == -1).all())
    job = replace(job, config=job.config.replace(crop_size=(32, 96)))
    a, b = make_datasets(job)[0], make_datasets(replace(job, feature_cache="somewhere"))[0]
    assert all(torch.equal(a[e, 0]["image"], b[e, 0]["image"]) for e in range(4))

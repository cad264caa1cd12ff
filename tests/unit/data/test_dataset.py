"""The torch data set: what an item is, epochs, the cache, batches."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.dataset import SegmentationDataset, bucket_order, collate
from semseg_automl.data.frame import Samples, check_table
from semseg_automl.data.images import read_image, to_rgb
from semseg_automl.data.label_map import IGNORE, LabelMap
from semseg_automl.data.labels import infer_label_map, read_mask, scan_masks
from semseg_automl.data.preprocess import plan_geometry, prepare_image, prepare_mask


@pytest.fixture(scope="module")
def checked(textures: pd.DataFrame) -> tuple[Samples, LabelMap]:
    samples = check_table(textures, need_label=True)
    assert samples.masks is not None
    return samples, infer_label_map(scan_masks(samples.masks))


def _dataset(checked: tuple[Samples, LabelMap], **options: Any) -> SegmentationDataset:
    return SegmentationDataset(*checked, **{"image_size": 64, "seed": 0, **options})


def _equal(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return torch.equal(one["image"], two["image"]) and torch.equal(one["mask"], two["mask"])


@pytest.mark.parametrize("cache", [True, False])
def test_items_are_the_prepared_picture_and_mask(checked: tuple[Samples, LabelMap], cache: bool) -> None:
    samples, label_map = checked
    data = _dataset(checked, cache=cache)
    geometry = plan_geometry(samples.sizes[3], 64)
    for _ in range(2):  # second time from the cache
        item = data[3]
        assert (
            item["index"] == 3 and item["image"].dtype == torch.float32 and item["mask"].dtype == torch.int64
        )
        assert torch.equal(item["image"], prepare_image(to_rgb(read_image(samples.images[3])), geometry))
        assert torch.equal(item["mask"], prepare_mask(read_mask(samples.masks[3], label_map), geometry))
    assert len(data) == 12 and len(list(data)) == 12


def test_full_size_gives_the_network_picture_and_the_stored_mask(checked: tuple[Samples, LabelMap]) -> None:
    data = _dataset(checked)
    for _ in range(2):
        image, indices, geometry = data.full_size(2)
        assert indices.shape == checked[0].sizes[2] == geometry.original
        assert torch.equal(image, data[2]["image"])


def test_augmentation_depends_on_seed_epoch_and_position_only(checked: tuple[Samples, LabelMap]) -> None:
    one, two = _dataset(checked, augment="strong"), _dataset(checked, augment="strong", cache=False)
    two[5], two[7]  # other items before must not matter
    assert _equal(one[4], two[4]) and _equal(one[4], one[4])
    first = one[4]
    one.set_epoch(1)
    assert not _equal(first, one[4]) and _equal(one[0, 4], first)
    two.set_epoch(1)
    assert _equal(one[4], two[4])
    assert not _equal(first, _dataset(checked, augment="strong", seed=1)[4])


def test_crops(checked: tuple[Samples, LabelMap]) -> None:
    data = _dataset(checked, image_size=128, crop_size=48, augment="medium")
    assert {tuple(data[i]["mask"].shape) for i in range(12)} == {(64, 64)}
    own = _dataset(checked, crop_size=(32, 32), augment=lambda image, mask, rng: (image, mask))
    assert own[0]["mask"].shape == (32, 32)


def test_the_cache_stops_at_its_limit_and_is_used(
    checked: tuple[Samples, LabelMap], monkeypatch: Any
) -> None:
    height, width = 51, 64  # 64 x 80 at long side 64
    each = height * width * (3 + 2)
    data = _dataset(checked, cache_bytes=5 * each + 10)
    assert data.preload() == 5
    full = _dataset(checked)
    assert full.preload() == 12
    monkeypatch.setattr("semseg_automl.data.dataset.read_seen", lambda source: pytest.fail("read again"))
    full[11]


def test_a_picture_is_not_spoilt_by_augmenting_it(checked: tuple[Samples, LabelMap]) -> None:
    data = _dataset(checked, augment="strong")
    before = data.pair(0)[0].copy()
    for epoch in range(5):
        data.set_epoch(epoch)
        data[0]["image"].zero_()
    np.testing.assert_array_equal(data.pair(0)[0], before)


def test_it_can_go_to_worker_processes(checked: tuple[Samples, LabelMap]) -> None:
    data = _dataset(checked, augment="medium")
    copy = pickle.loads(pickle.dumps(data))  # what multiprocessing does
    assert _equal(copy[1], data[1])


def test_broken_and_changed_files_are_named(tmp_path: Path) -> None:
    for i in range(2):
        Image.new("RGB", (20, 10)).save(tmp_path / f"i{i}.png")
        Image.new("L", (20, 10)).save(tmp_path / f"m{i}.png")
    frame = pd.DataFrame(
        {
            "image": [tmp_path / f"i{i}.png" for i in range(2)],
            "label": [tmp_path / f"m{i}.png" for i in range(2)],
        }
    )
    samples = check_table(frame, need_label=True)
    label_map = LabelMap(problem_type="binary", names=("a", "b"), values=(0, 1))
    data = SegmentationDataset(samples, label_map, image_size=32)
    (tmp_path / "i0.png").write_bytes(b"junk")
    Image.new("L", (11, 10)).save(tmp_path / "m1.png")
    with pytest.raises(DataError, match=r"i0\.png"):
        data[0]
    with pytest.raises(DataError, match=r"m1\.png.*no longer"):
        data[1]
    with pytest.raises(IndexError):
        data[2]
    with pytest.raises(DataError, match="needs masks"):
        SegmentationDataset(check_table(frame[1:], need_label=False), label_map, image_size=32)


def test_collate_pads_to_the_largest() -> None:
    batch = [
        {"image": torch.ones(3, h, w), "mask": torch.ones(h, w, dtype=torch.int64), "index": i}
        for i, (h, w) in enumerate([(32, 64), (64, 32)])
    ]
    out = collate(batch)
    assert out["image"].shape == (2, 3, 64, 64) and out["mask"].shape == (2, 64, 64)
    assert out["image"].sum() == 2 * 3 * 32 * 64 and (out["mask"] == IGNORE).sum() == 2 * 32 * 64
    assert out["mask"][0, 40, 0] == IGNORE and out["mask"][1, 40, 0] == 1
    assert out["index"].tolist() == [0, 1] and out["index"].dtype == torch.int64


def test_buckets_hold_one_shape_and_every_picture_once() -> None:
    rng = np.random.default_rng(0)
    shapes = [(360, 480), (480, 360), (300, 300)]
    geometries = [plan_geometry(shapes[k], 256) for k in rng.integers(0, 3, 50)]
    batches = bucket_order(geometries, 4, np.random.default_rng(1))
    assert Counter(i for batch in batches for i in batch) == Counter(range(50))
    assert max(len(b) for b in batches) == 4 and len(batches) == 13
    mixed = [b for b in batches if len({geometries[i].padded for i in b}) > 1]
    assert len(mixed) <= 2
    assert batches == bucket_order(geometries, 4, np.random.default_rng(1))
    assert batches != bucket_order(geometries, 4, np.random.default_rng(2))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda image, mask, rng: None,
        lambda image, mask, rng: (image, mask, rng),
        lambda image, mask, rng: (image.astype(np.float32), mask),
        lambda image, mask, rng: (image[1:], mask),
        lambda image, mask, rng: (image[..., 0], mask),
        lambda image, mask, rng: (image[:0], mask[:0]),
        lambda image, mask, rng: (image, mask + 0.5),
        lambda image, mask, rng: (np.repeat(image, 2, axis=0), np.repeat(mask, 2, axis=0)),
    ],
)
def test_an_own_function_that_answers_wrong_is_told_so(checked: tuple[Samples, LabelMap], wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"given as augment must answer with an image \(h, w, 3\) uint8"):
        _dataset(checked, augment=wrong)[0]


@pytest.mark.parametrize(
    "wrong", [lambda mask: mask.astype(np.uint8), lambda mask: 255 * (mask > 0), lambda mask: mask - 7]
)
def test_an_own_function_whose_mask_holds_no_class_is_told_so(
    checked: tuple[Samples, LabelMap], wrong: Any
) -> None:
    """Through uint8 -1 becomes 255, which a binary training would take for background."""
    ignored = np.full((4, 4), IGNORE, np.int16)

    def augment(
        image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        mask = mask.copy()
        mask[:4, :4] = ignored
        return image, wrong(mask)

    with pytest.raises(ConfigError, match=r"holds -?\d+: masks hold the classes 0 to \d+, and -1"):
        _dataset(checked, augment=augment)[0]


def test_an_own_function_may_answer_with_less_and_other_integers(checked: tuple[Samples, LabelMap]) -> None:
    def cut(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return image[:20, 3:], mask[:20, 3:].astype(np.int64)

    item = _dataset(checked, augment=cut)[0]
    assert (item["mask"][20:] == IGNORE).all() and (item["mask"] != IGNORE).any()
    large = _dataset(checked, augment=lambda i, m, r: (np.repeat(i, 2, 0), np.repeat(m, 2, 0)), crop_size=32)
    assert large[0]["mask"].shape == (32, 32)


@pytest.mark.parametrize("augment", ["strong", "own"])
def test_the_same_seed_gives_the_same_pictures_with_any_number_of_workers(
    checked: tuple[Samples, LabelMap], augment: str
) -> None:
    own = v2.Compose([v2.RandomRotation(20), v2.ColorJitter(0.3, 0.3), v2.RandomHorizontalFlip()])
    chosen = own if augment == "own" else augment
    batches = [[(epoch, i) for i in range(3 * k, 3 * k + 3)] for epoch in range(2) for k in range(4)]
    found = []
    for workers in (0, 1, 2):
        data = _dataset(checked, augment=chosen, crop_size=48, seed=5)
        loader = DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=workers)
        found.append(list(loader))
    for other in found[1:]:
        assert all(_equal(a, b) for a, b in zip(found[0], other, strict=True))
    first, again = (torch.cat([b["image"] for b in found[0][k : k + 4]]) for k in (0, 4))
    assert not torch.equal(first, again)

"""Near-duplicates across a split: what counts as one, what does not, and what it costs."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from semseg_automl.data import near_duplicates as module
from semseg_automl.data.near_duplicates import (
    ALIKE,
    DISTANCE,
    difference_hash,
    distances,
    near_duplicates,
    variety,
)


def scene(seed: int, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """Smooth random blobs with some detail, as photographs are."""
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).resize(
        (size[1], size[0]), Image.Resampling.BICUBIC
    )
    noise = rng.normal(0, 6, (*size, 3))
    return np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)


def jpeg(array: np.ndarray, quality: int) -> Image.Image:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="JPEG", quality=quality)
    return Image.open(stream)


VARIANTS = {
    "itself": lambda a: a,
    "compressed": lambda a: jpeg(a, 30),
    "smaller": lambda a: Image.fromarray(a).resize((160, 120)),
    "brighter": lambda a: ImageEnhance.Brightness(Image.fromarray(a)).enhance(1.15),
    "blurred": lambda a: Image.fromarray(a).filter(ImageFilter.GaussianBlur(2)),
    "grey": lambda a: Image.fromarray(a).convert("L"),
    "16 bit": lambda a: np.asarray(Image.fromarray(a).convert("L")).astype(np.uint16) * 100,
    "moved by two pixels": lambda a: np.roll(a, 2, axis=1),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_changed_copy_is_found(name: str) -> None:
    val = [scene(i) for i in range(8)]
    train = [scene(100 + i) for i in range(20)] + [VARIANTS[name](val[3])]
    found = near_duplicates(train, val)
    assert found.pairs == ((20, 3),) and found.looked_at == 21


def test_different_pictures_are_not_and_flat_ones_tell_nothing() -> None:
    train, val = [scene(i) for i in range(60)], [scene(1000 + i) for i in range(60)]
    assert near_duplicates(train, val).pairs == ()
    codes = [difference_hash(scene(i).astype(np.float32).mean(-1)) for i in range(200)]
    apart = distances(np.array(codes), np.array(codes))
    assert np.sort(apart, axis=None)[len(codes)] > 2 * DISTANCE
    flat = [np.full((50, 60), 7, np.uint8), np.full((80, 60, 3), 200, np.uint8)]
    noise = [np.random.default_rng(i).integers(100, 110, (500, 400), np.uint8) for i in range(3)]
    assert near_duplicates(flat + noise, flat + noise).pairs == ()


def test_distance_is_the_number_of_differing_bits() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 256, (5, 16), np.uint8), rng.integers(0, 256, (7, 16), np.uint8)
    expected = (np.unpackbits(one, axis=1)[:, None] != np.unpackbits(two, axis=1)[None]).sum(-1)
    np.testing.assert_array_equal(distances(one, two), expected)


def test_files_of_any_kind_and_what_can_not_be_read(tmp_path: Path) -> None:
    picture, paths = scene(0), []
    for suffix, options in ((".jpg", {"quality": 90}), (".png", {}), (".webp", {"quality": 90})):
        paths.append(str(tmp_path / f"a{suffix}"))
        Image.fromarray(picture).save(paths[-1], **options)
    deep = str(tmp_path / "deep.png")
    Image.fromarray(VARIANTS["16 bit"](picture)).save(deep)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    train = [*paths, deep, str(tmp_path / "broken.png"), str(tmp_path / "absent.png"), "s3://bucket/a.png"]
    for k, path in enumerate(train[:4]):
        assert near_duplicates([path], [picture]).pairs == ((0, 0),), k
    assert near_duplicates(train[4:], [picture, *train[4:]]).pairs == ()
    assert near_duplicates([], [picture]).looked_at == 0 and near_duplicates([picture], []).pairs == ()


def test_a_large_table_is_looked_at_as_far_as_the_time_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(source: np.ndarray) -> np.ndarray:
        time.sleep(0.001)
        return np.random.default_rng(abs(int(source[0, 0]))).integers(0, 256, 16, np.uint8)

    monkeypatch.setattr(module, "_hash", slow)
    started = time.monotonic()
    found = near_duplicates([np.full((1, 1), i) for i in range(50_000)], [np.full((1, 1), -1)], seconds=0.3)
    assert 256 <= found.looked_at < 50_000 and time.monotonic() - started < 30


def test_frames_are_few_scenes_and_separate_pictures_are_as_many() -> None:
    apart = [scene(i) for i in range(40)]
    assert near_duplicates(apart, apart[:1]).variety == 1.0
    moving = [np.roll(scene(i), 4 * k, axis=1) for i in range(5) for k in range(8)]
    found = near_duplicates(moving, apart[:1])
    assert 5 / 40 <= found.variety <= 10 / 40 and found.looked_at == 40
    chain = np.packbits(np.tril(np.ones((129, 128), np.uint8)), axis=1)  # each differs by a bit from the next
    assert variety(chain) == 1 / 129 and variety(chain[:: ALIKE + 1]) == 1.0  # joined by others, or not
    assert variety(chain[:0]) == 1.0
    assert near_duplicates([np.zeros((9, 9), np.uint8)], apart[:1]).variety == 1.0  # flat: nothing is known


def test_a_large_table_is_compared_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(module, "variety", lambda codes: sizes.append(len(codes)) or 0.5)
    rng = np.random.default_rng(0)
    monkeypatch.setattr(module, "_hash", lambda _s: rng.integers(0, 256, 16, dtype=np.uint8))
    pictures = [np.zeros((1, 1), np.uint8)] * 3000
    assert near_duplicates(pictures, pictures[:1], seconds=60.0).variety == 0.5 and sizes == [1024]

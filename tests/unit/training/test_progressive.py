"""Smaller pictures first: sizes, labels, and when a run changes over."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from semseg_automl.data.label_map import IGNORE
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.training.fit import train
from semseg_automl.training.job import TrainJob
from semseg_automl.training.progressive import shrink, small_size


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((512, 512), 0.625, (320, 320)),
        ((384, 512), 0.625, (256, 320)),  # 240 is half-way between 224 and 256; even wins
        ((64, 32), 0.5, (32, 32)),
        ((320, 64), 0.1, (32, 32)),
        ((96, 160), 1.0, (96, 160)),
    ],
)
def test_sizes_are_multiples_of_the_stride(size: tuple[int, int], scale: float, expected: object) -> None:
    assert small_size(size, scale) == expected


def test_each_label_is_that_of_the_nearest_pixel_and_none_is_invented() -> None:
    mask = torch.randint(0, 7, (2, 128, 192), generator=torch.Generator().manual_seed(0))
    mask[mask == 6] = IGNORE
    _, small = shrink(torch.zeros(2, 3, 128, 192), mask, 0.5)
    rows, cols = ((torch.arange(n) + 0.5) * 2 for n in (64, 96))  # centres, in pixels of the large mask
    assert torch.equal(small, mask[:, rows.long()][:, :, cols.long()])
    assert small.dtype == mask.dtype


def test_a_halved_picture_keeps_its_brightness_and_loses_what_is_too_fine() -> None:
    ramp = torch.linspace(-2, 2, 128).expand(1, 3, 128, 128)
    checks = ((torch.arange(128)[:, None] + torch.arange(128)) % 2).float().expand(1, 3, 128, 128)
    image, _ = shrink(ramp + checks, torch.zeros(1, 128, 128, dtype=torch.int64), 0.5)
    assert image.shape == (1, 3, 64, 64)
    expected = torch.linspace(-2, 2, 128).view(64, 2).mean(1) + 0.5
    torch.testing.assert_close(image[0, 0, 30, 8:-8], expected[8:-8], atol=0.02, rtol=0)


def test_full_scale_changes_nothing() -> None:
    image, mask = torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.int64)
    same, labels = shrink(image, mask, 1.0)
    assert same is image and labels is mask


def test_the_first_share_of_the_steps_is_small_and_validation_never_is(
    make_job: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[bool, int]] = []
    forward = Segmenter.forward

    def spy(self: Segmenter, image: torch.Tensor) -> torch.Tensor:
        sizes.append((self.training, image.shape[-1]))
        return forward(self, image)

    monkeypatch.setattr(Segmenter, "forward", spy)
    train(make_job(small_share=0.6, small_scale=0.5, image_size=64, max_steps=10))
    assert [size for training, size in sizes if training] == [32] * 6 + [64] * 4
    assert {size for training, size in sizes if not training} == {64}

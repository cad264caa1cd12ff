"""Everything here needs a CUDA device; float32 products are taken in full, as on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip(reason="no CUDA device")


@pytest.fixture
def full_float32() -> Iterator[None]:
    """No TF32, neither in convolutions (where torch uses it by default) nor in products of matrices."""
    import torch

    places = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    yield
    for place, value in zip(places, before, strict=True):
        place.allow_tf32 = value


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    """Nothing of one test stays on the device for the next; limits on memory are lifted."""
    yield
    from semseg_automl.models.devices import give_back_memory

    give_back_memory("cuda")

"""Progressive resizing: the first part of a run sees smaller pictures, so that more steps fit into the time.

A training step costs what its pixels cost. What is learned early (where things are, roughly) needs few
of them; the last part, at full size, learns the outlines and settles on the size of prediction. The idea is
used by Howard & Gugger (fastai, 2020) and by Tan & Le (EfficientNetV2, ICML 2021), who also weaken the
augmentation while pictures are small; here it stays as it is.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

STRIDE = 32


def small_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """``scale`` times (H, W), each rounded to a multiple of 32 and at least that."""
    h, w = (max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in size)
    return h, w


def shrink(image: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Make a batch smaller.

    Parameters
    ----------
    image : float (B, C, H, W), resampled with anti-aliased bilinear weights
    mask : int64 (B, H, W), the nearest label of each pixel
    scale : in 0..1; 1 gives both back as they are

    Returns
    -------
    image (B, C, h, w), mask (B, h, w), with (h, w) from :func:`small_size`
    """
    size = small_size((mask.shape[-2], mask.shape[-1]), scale)
    if size == tuple(mask.shape[-2:]):
        return image, mask
    smaller = F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)
    # labels are small whole numbers, IGNORE among them: exact in float32; (B, H, W) -> (B, 1, H, W) and back
    labels = F.interpolate(mask[:, None].float(), size=size, mode="nearest-exact")[:, 0]
    return smaller, labels.to(mask.dtype)

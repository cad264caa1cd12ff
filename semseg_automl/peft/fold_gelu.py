"""Experts with a GELU between the interpolations, at native resolution: down_s(GELU(conv3x3(up_s(z)))).

What stands before the GELU is linear and local, and the downsampling reads few sub-pixel positions of a
pixel: the centre for odd scales, 2 x 2 (bilinear) or 4 x 4 (bicubic) around it for even ones. For each of
them upsampling and convolution fold into one kernel on the native map (3 x 3 bilinear, 5 x 5 bicubic).

Borders, where the native map is continued by its edge: with bilinear interpolation and replicate padding of
the upscaled map the fold is exact everywhere at every scale. With bicubic interpolation and zero padding
(``compat``) it is exact everywhere for scale 3 and from 5 on. At 1, 2 and 4 the samples or the taps around
them reach over the edge of the upscaled map, where zeros and not the edge continue it: there the expert
stays written out (a ring of border pixels alone is a quarter of a 14 x 14 window, and its strips cost more).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.peft.fold import patches, replicate_pad

_CUBIC = -0.75  # torch's (and OpenCV's) parameter of Keys' cubic convolution, 1981


def is_exact(scale: int, *, compat: bool) -> bool:
    """Whether :func:`folded_expert` equals the written-out expert at the border, too."""
    return not compat or scale == 3 or scale >= 5


def interpolation(offset: float, *, cubic: bool) -> list[float]:
    """Weights of the native taps -1..1 (bilinear) or -2..2 (bicubic) at ``offset`` pixels from the centre.

    ``|offset| <= 1`` (bilinear) or ``< 1`` (bicubic).
    """
    reach = 2 if cubic else 1
    kernel = _cubic_weight if cubic else _linear_weight
    return [kernel(abs(offset - tap)) for tap in range(-reach, reach + 1)]


def _linear_weight(t: float) -> float:
    return max(0.0, 1.0 - t)


def _cubic_weight(t: float) -> float:
    """Keys 1981, equation 15, with parameter -0.75."""
    if t <= 1:
        return (_CUBIC + 2) * t**3 - (_CUBIC + 3) * t**2 + 1
    return _CUBIC * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


@cache
def sample_matrices(scale: int, *, compat: bool) -> tuple[Tensor, Tensor]:
    """What folds a 3x3 kernel of scale ``scale``, and what averages the samples after the GELU.

    Returns
    -------
    Tensor float64 (n*n*T*T, 9)
        From the kernel's taps to those of the native kernels of the n x n samples; T = 3, compat 5.
    Tensor float64 (n*n,)
        The downsampling's weights.
    """
    middle = (scale - 1) / 2  # of a pixel's sub-pixels 0..scale-1
    around = [0.0] if scale % 2 else [-1.5, -0.5, 0.5, 1.5] if compat else [-0.5, 0.5]
    kernel = _cubic_weight if compat else _linear_weight
    weights = torch.tensor([kernel(abs(a)) for a in around], dtype=torch.float64)
    rows = [
        [interpolation((middle + a + tap + 0.5) / scale - 0.5, cubic=compat) for tap in (-1, 0, 1)]
        for a in around
    ]
    one = torch.tensor(rows, dtype=torch.float64).transpose(1, 2).contiguous()  # (n, T, 3)
    both = torch.einsum("atd,bue->abtude", one, one)  # (n, n, T, T, 3, 3)
    return both.reshape(-1, 9), torch.outer(weights, weights).flatten()


def folded_expert(z: Tensor, kernel: Tensor, bias: Tensor, scale: int, *, compat: bool) -> Tensor:
    """The expert on units (N, h, w, r), each continued by its edge.

    Parameters
    ----------
    z : Tensor (N, h, w, r)
    kernel, bias : Tensor (r, r, 3, 3), (r,)
    scale : int
        Where :func:`is_exact`.
    compat : bool
        True: bicubic, False: bilinear.

    Returns
    -------
    Tensor (N, h, w, r)
    """
    n, h, w, r = z.shape
    with torch.inference_mode(False):  # they are kept, and a later call may need gradients
        fold, weights = sample_matrices(scale, compat=compat)
    fold, weights = fold.to(kernel, non_blocking=True), weights.to(z, non_blocking=True)
    side, samples = 5 if compat else 3, len(weights)
    with torch.autocast(z.device.type, enabled=False):
        native = kernel.reshape(r * r, 9) @ fold.t()  # (r_out*r_in, samples*T*T)
        native = native.view(r, r, samples, side * side).permute(3, 1, 0, 2)  # (T*T, r_in, r_out, samples)
        native = native.reshape(side * side * r, r * samples).to(z.dtype)
    maps = patches(replicate_pad(z, side // 2), side).reshape(n * h * w, -1)
    y = torch.addmm(bias.to(z.dtype).repeat_interleave(samples), maps, native)
    y = F.gelu(y)
    if samples > 1:
        y = y.view(-1, samples) @ weights  # (N*h*w*r, samples) -> (N*h*w*r,)
    return y.view(n, h, w, r)

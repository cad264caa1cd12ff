"""SAM-Adapter (Chen et al., "SAM Fails to Segment Anything? SAM-Adapter", ICCV workshops 2023).

Source of the formulas: that paper's equations 1 and 2 and its code, which is that of EVP (Liu et al.,
"Explicit Visual Prompting", CVPR 2023). Before block i the map x gets

    x + up(GELU(tune_i(F))),   F = P e + c + K * hfc(picture),

with e the patch embedding, hfc the picture's high frequencies (:func:`high_frequencies`), K a convolution
with the stem's patches, tune_i a linear layer of each block and up one of all blocks of equal width. Every
part works on r channels.

Deliberate differences from the paper: up starts at 0, so that the start is the frozen encoder (there
0.02 times normal noise); r is ``rank`` (there C / 32); e is the stem's output, which includes what an
encoder adds to the patch embedding (SAM's positions, TinyViT's first stage). In encoders whose stages have
other sizes F is averaged down to a block's map, and each width has an up of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig
from semseg_automl.peft.base import Site, kaiming_uniform
from semseg_automl.peft.companion import Companion, Guide, Outline, block_widths, pool_to

LOW_SHARE = 0.25
"""Share of the spectrum, around its centre, that counts as low frequencies (the released configuration)."""


def high_frequencies(images: Tensor, low_share: float = LOW_SHARE) -> Tensor:
    """Absolute value of the pictures without their low frequencies: (B, 3, H, W) -> the same shape, float32.

    A centred square of sqrt(low_share H W) frequencies is removed; it is cut where a picture is narrower.
    float64 stays float64.
    """
    x = images if images.dtype == torch.float64 else images.float()
    h, w = x.shape[-2:]
    if torch.jit.is_tracing():
        traced = (torch.as_tensor(h * w) * low_share).sqrt() // 2
        return (x - _low_pass(x, *_low_terms(h, traced), *_low_terms(w, traced))).abs()
    half = int((h * w * low_share) ** 0.5 // 2)
    keep = x.new_ones(h, w)
    keep[max(0, h // 2 - half) : h // 2 + half, max(0, w // 2 - half) : w // 2 + half] = 0
    spectrum = torch.fft.fft2(x) * torch.fft.ifftshift(keep)
    return torch.fft.ifft2(spectrum).real.abs()


def _low_terms(n: int, half: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part, (n, n) each, of the projection on frequencies -half to half - 1.

    (1 / n) sum_k exp(2 pi i k (a - b) / n): for exporters, which know no Fourier transform of real pictures.
    """
    place = torch.arange(n)
    angle = (place[:, None] * place[None] % n).float() * (2 * torch.pi / n)  # a k, k from 0
    signed = torch.where(place < (n + 1) // 2, place, place - n)  # the same frequencies, from -n/2
    keep = ((signed >= -half) & (signed < half)).float()
    cosine, sine = angle.cos(), angle.sin()
    real = (cosine * keep) @ cosine.t() + (sine * keep) @ sine.t()
    imaginary = (sine * keep) @ cosine.t() - (cosine * keep) @ sine.t()
    return real / n, imaginary / n


def _low_pass(x: Tensor, real_h: Tensor, imag_h: Tensor, real_w: Tensor, imag_w: Tensor) -> Tensor:
    """Real part of P_h x P_w^T for (B, 3, H, W)."""
    return real_h @ x @ real_w.t() - imag_h @ x @ imag_w.t()


class SAMAdapter(Companion):
    """See the module. ``rank`` r is the number of channels of F and between its layers.

    Trainable, for n blocks, a stem of C0 channels and stride s, and the distinct widths C_j of the blocks:
    (r C0 + r) + (3 s^2 r + r) + n (r^2 + r) + sum_j (C_j r + C_j). ``alpha`` has no effect.

    Attributes
    ----------
    embed, embed_bias : Parameter (r, C0), (r,)
    filters, filters_bias : Parameter (r, 3, s, s), (r,)
    tune, tune_bias : ParameterDict, block number -> (r, r), (r,)
    up, up_bias : ParameterDict, width -> (C, r), (C,)
    """

    no_merge = "it adds to the input of whole blocks what it sees in the picture"

    def __init__(self, widths: dict[int, int], outline: Outline, rank: int, generator: torch.Generator):
        super().__init__()
        self.widths, self.stride = dict(widths), outline.stem_stride
        s = self.stride
        self.embed = nn.Parameter(kaiming_uniform((rank, outline.stem_channels), generator))
        self.embed_bias = nn.Parameter(torch.zeros(rank))
        self.filters = nn.Parameter(kaiming_uniform((rank, 3, s, s), generator, fan_in=3 * s * s))
        self.filters_bias = nn.Parameter(torch.zeros(rank))
        self.tune, self.tune_bias = nn.ParameterDict(), nn.ParameterDict()
        for block in widths:
            self.tune[str(block)] = nn.Parameter(kaiming_uniform((rank, rank), generator))
            self.tune_bias[str(block)] = nn.Parameter(torch.zeros(rank))
        self.up, self.up_bias = nn.ParameterDict(), nn.ParameterDict()
        for width in sorted(set(widths.values())):
            self.up[str(width)] = nn.Parameter(torch.zeros(width, rank))
            self.up_bias[str(width)] = nn.Parameter(torch.zeros(width))

    def features(self, images: Tensor, stem: Tensor) -> Tensor:
        """F: (B, h, w, r), at the stem's size."""
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            sharp = high_frequencies(images)
        seen = F.conv2d(sharp, self.filters, self.filters_bias, stride=self.stride)
        return F.linear(stem, self.embed, self.embed_bias) + seen.permute(0, 2, 3, 1)  # from (B, r, h, w)

    def prompt(self, block: int, features: Tensor) -> Tensor:
        """What is added before a block: (B, h, w, C) from F at the block's size."""
        name, width = str(block), str(self.widths[block])
        z = F.gelu(F.linear(features, self.tune[name], self.tune_bias[name]))
        return F.linear(z, self.up[width], self.up_bias[width])

    def forward(self, images: Tensor, stem: Tensor, run: Callable[[Guide], Any]) -> Any:
        """See :meth:`Companion.forward`."""
        features = self.features(images, stem)
        sizes = {tuple(features.shape[1:3]): features}

        def add(block: int, x: Tensor) -> Tensor:
            if block not in self.widths:
                return x
            size = (x.shape[1], x.shape[2])
            if size not in sizes:
                small = pool_to(features.permute(0, 3, 1, 2), size)
                sizes[size] = small.permute(0, 2, 3, 1)  # (B, r, h, w) -> (B, h, w, r)
            return x + self.prompt(block, sizes[size]).to(x.dtype)

        return run(add)


def build_sam_adapter(
    outline: Outline,
    sites: Sequence[Site],
    chosen: Sequence[Site],
    config: AdapterConfig,
    generator: torch.Generator,
) -> SAMAdapter:
    """For the blocks of the ``chosen`` ones among an encoder's ``sites``."""
    return SAMAdapter(block_widths(chosen), outline, config.rank, generator)

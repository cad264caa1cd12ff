"""Conv-LoRA's linear experts, folded into one 3x3 convolution against interpolate-convolve-interpolate.

    python benchmarks/speed/experts.py [--rounds 15]

Eight experts, top-1 routing that is forced to the expert of scale s, forward and backward, float32, two
threads. Both forms compute only what the kept expert needs. Bars: at s = 8 the folded form is at least
5 times faster, at s = 1 it takes at most 1.05 times as long.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from interleave import interleaved, ratio, spread, write
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.models.devices import prepare_cpu
from semseg_automl.peft.fold import conv_valid, fold_matrices, mix_kernels, replicate_pad

SHAPES = ((25, 14, 14), (1, 64, 64))
RANKS = (4, 16)
SCALES = (1, 2, 3, 4, 8)
EXPERTS = 8
FASTER_AT_8, SLOWER_AT_1 = 5.0, 1.05


def written_out(z: Tensor, kernel: Tensor, bias: Tensor, gate: Tensor, scale: int) -> Tensor:
    """z + E * g * down_s(conv3x3(up_s(z))) on (N, h, w, r): the expert that every sample keeps."""
    maps = z.permute(0, 3, 1, 2)  # (N, h, w, r) -> (N, r, h, w)
    up = maps if scale == 1 else F.interpolate(maps, scale_factor=float(scale), mode="bilinear")
    y = F.conv2d(F.pad(up, (1, 1, 1, 1), mode="replicate"), kernel, bias)
    y = y if scale == 1 else F.interpolate(y, size=maps.shape[-2:], mode="bilinear")
    return z + EXPERTS * (gate[:, None, None, None] * y).permute(0, 2, 3, 1)


def folded(z: Tensor, kernels: Tensor, bias: Tensor, gates: Tensor, folds: Tensor) -> Tensor:
    """As ConvLoRALayer does it: all experts' kernels folded and mixed by the gates, one convolution."""
    weights = EXPERTS * gates[:, None, None]  # (N, 1, 1, E)
    mixed, shift = mix_kernels(kernels[None], bias[None], weights, folds)
    return conv_valid(replicate_pad(z), mixed[:, 0], shift[:, 0])


def case(shape: tuple[int, int, int], rank: int, scale: int) -> dict[str, Callable[[], None]]:
    """The two forms on the same numbers, each a call that runs forward and backward."""
    torch.manual_seed(0)
    n, h, w = shape
    z = torch.randn(n, h, w, rank, requires_grad=True)
    kernels = torch.randn(EXPERTS, rank, rank, 3, 3).mul_(0.1).requires_grad_()
    bias = torch.zeros(EXPERTS, rank, requires_grad=True)
    gates = torch.zeros(n, EXPERTS)
    gates[:, scale - 1] = 0.125
    gates.requires_grad_()
    folds = fold_matrices(range(1, EXPERTS + 1)).float()
    grad = torch.randn(n, h, w, rank)

    def run_folded() -> None:
        folded(z, kernels, bias, gates, folds).backward(grad)

    def run_written_out() -> None:
        i = scale - 1
        written_out(z, kernels[i], bias[i], gates[:, i], scale).backward(grad)

    with torch.no_grad():
        i = scale - 1
        torch.testing.assert_close(
            folded(z, kernels, bias, gates, folds),
            written_out(z, kernels[i], bias[i], gates[:, i], scale),
            rtol=1e-4,
            atol=1e-4,
        )
    return {"folded": run_folded, "written_out": run_written_out}


def main() -> int:
    """Measure, write the JSON, return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(2)
    prepare_cpu()
    cases: list[dict[str, Any]] = []
    for shape in SHAPES:
        for rank in RANKS:
            for scale in SCALES:
                seconds = interleaved(case(shape, rank, scale), rounds)
                quotient = ratio(seconds["folded"], seconds["written_out"])
                bar = {1: SLOWER_AT_1, 8: 1 / FASTER_AT_8}.get(scale)
                cases.append(
                    {"shape": [*shape, rank], "scale": scale, "folded_over_written_out": quotient}
                    | {"bar": bar, "met": None if bar is None else quotient <= bar}
                    | {name: spread(values) for name, values in seconds.items()}
                )
    write("experts", {"rounds": rounds, "threads": 2, "cases": cases})
    return int(any(c["met"] is False for c in cases))


if __name__ == "__main__":
    sys.exit(main())

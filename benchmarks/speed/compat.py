"""Experts with a GELU (compat routing): at native resolution against interpolate-convolve-GELU-interpolate.

    python benchmarks/speed/compat.py [--rounds 15] [--scales 1 2 3 4 5 6 7 8]

Forward and backward of one expert on the windows or the map that kept it, float32, two threads, bicubic and
zero padding as released. At scales 1, 2 and 4 the layer runs the written-out form itself (see
``peft.fold_gelu``), so there the ratio shows the noise. Bars: at no scale more than 1.05 times the
written-out form's time, less than it at 3, 5, 7 and 8.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from interleave import interleaved, ratio, spread, write

from semseg_automl.models.devices import prepare_cpu
from semseg_automl.peft.experts import expert
from semseg_automl.peft.fold_gelu import folded_expert, is_exact

SHAPES = ((25, 14, 14), (1, 64, 64))
RANKS = (3, 16)
FASTER = (3, 5, 7, 8)
BAR = 1.05


def case(shape: tuple[int, int, int], rank: int, scale: int) -> dict[str, Callable[[], None]]:
    """The layer's form and the written-out one on the same numbers: forward and backward."""
    torch.manual_seed(0)
    z = torch.randn(*shape, rank, requires_grad=True)
    kernel = torch.randn(rank, rank, 3, 3).mul_(0.1).requires_grad_()
    bias = torch.zeros(rank, requires_grad=True)
    grad = torch.randn(*shape, rank)
    form = folded_expert if is_exact(scale, compat=True) else expert

    def folded() -> None:
        form(z, kernel, bias, scale, compat=True).backward(grad)

    def written_out() -> None:
        expert(z, kernel, bias, scale, compat=True).backward(grad)

    with torch.no_grad():
        wanted = expert(z, kernel, bias, scale, compat=True)
        torch.testing.assert_close(form(z, kernel, bias, scale, compat=True), wanted, rtol=1e-4, atol=1e-4)
    return {"folded": folded, "written_out": written_out}


def main() -> int:
    """Measure, write the JSON, return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scales", type=int, nargs="+", default=list(range(1, 9)))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    prepare_cpu()
    cases: list[dict[str, Any]] = []
    for shape in SHAPES:
        for rank in RANKS:
            for scale in arguments.scales:
                seconds = interleaved(case(shape, rank, scale), arguments.rounds)
                quotient = ratio(seconds["folded"], seconds["written_out"])
                bar = 1.0 if scale in FASTER else BAR
                cases.append(
                    {"shape": [*shape, rank], "scale": scale, "folded_over_written_out": quotient}
                    | {"bar": bar, "met": quotient <= bar}
                    | {name: spread(values) for name, values in seconds.items()}
                )
    write("compat", {"rounds": arguments.rounds, "threads": 2, "cases": cases})
    return int(not all(c["met"] for c in cases))


if __name__ == "__main__":
    sys.exit(main())

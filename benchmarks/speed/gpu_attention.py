"""SAM's attention with relative positions on CUDA, by kernel and by the width of the values.

    python benchmarks/speed/gpu_attention.py [--seconds 20] [--output FILE]

Forward and backward of ``scaled_dot_product_attention`` on heads as ``rel_pos`` widens them (ViT-B's windows,
its global blocks at 1024 and 2048 pixels, ViT-H's global blocks at 1024). "wide": values padded to the width
of the keys, which the flash kernels ask for; "narrow": values as they are. "library": what
``relative_attention`` does in all. Calls take turns and end synchronised. A kernel that refuses a case is in
``refused``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interleave import interleaved, spread, write
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from semseg_automl.models.devices import describe_gpus, give_back_memory
from semseg_automl.models.encoders.rel_pos import relative_attention

CASES = {  # maps, heads, side of the grid, channels of a head
    "vit_b windows at 1024": (25, 12, 14, 64),
    "vit_b global at 1024": (1, 12, 64, 64),
    "vit_h global at 1024": (1, 16, 64, 80),
    "vit_b global at 2048": (1, 12, 128, 64),
}
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MOST, LEAST = 20, 3


def calls_of(
    maps: int, heads: int, side: int, width: int, dtype: torch.dtype
) -> dict[str, Callable[[], Any]]:
    """Forward and backward by kernel and width of the values, and as the library does it."""
    extra = 2 * side + -(width + 2 * side) % 16
    make = {"device": "cuda", "dtype": dtype}
    q, k, v = (torch.randn(maps, heads, side * side, width, **make, requires_grad=True) for _ in range(3))
    wide_q, wide_k = (F.pad(x.detach(), (0, extra)).requires_grad_() for x in (q, k))
    tables = [torch.randn(side, side, width, **make) for _ in range(2)]

    def by_kernel(kernel: SDPBackend, pad: bool) -> None:
        with sdpa_kernel(kernel):
            values = F.pad(v, (0, extra)) if pad else v
            out = F.scaled_dot_product_attention(wide_q, wide_k, values, scale=1.0)[..., :width]
            gradients(out, wide_q, wide_k, v)

    found: dict[str, Callable[[], Any]] = {
        f"{name} {'wide' if pad else 'narrow'}": lambda b=backend, p=pad: by_kernel(b, p)  # type: ignore[misc]
        for name, backend in KERNELS.items()
        for pad in (True, False)
    }
    return found | {"library": lambda: gradients(relative_attention(q, k, v, *tables), q, k, v)}


def gradients(out: Tensor, *inputs: Tensor) -> None:
    """The backward pass, waited for."""
    torch.autograd.grad(out, inputs, torch.ones_like(out))
    torch.cuda.synchronize()


def measure(case: str, precision: str, seconds: float) -> dict[str, Any]:
    """One case in one precision."""
    calls, refused = calls_of(*CASES[case], DTYPES[precision]), {}
    for name in list(calls):
        try:
            calls[name]()
        except RuntimeError as error:
            refused[name] = str(error).splitlines()[0]
            del calls[name]
    started = time.perf_counter()
    interleaved(calls, 0, warm_up=1)
    each = max(1e-4, time.perf_counter() - started)
    taken = interleaved(calls, max(LEAST, min(MOST, int(seconds / each))), warm_up=0)
    times = {name: spread(found) | {"peak_mib": peak_of(calls[name])} for name, found in taken.items()}
    return {"case": case, "precision": precision, "times": times, "refused": refused}


def peak_of(call: Callable[[], Any]) -> float:
    """MiB that a call takes beyond what was allocated before it."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def main() -> int:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of wall clock, about")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device")
    share, cases = 0.5 * arguments.seconds / (len(CASES) * len(DTYPES)), []
    for case in CASES:
        for precision in DTYPES:
            cases.append(measure(case, precision, share))
            give_back_memory("cuda")
    write("gpu_attention", {"cases": cases, "gpu": describe_gpus()[0]}, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

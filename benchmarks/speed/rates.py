"""What bounds a step of SAM ViT-B at 1024 pixels: its operations, counted, over the machine's own rates.

    python benchmarks/speed/rates.py [--rounds 7] [--size 1024]

Counted are multiplications and additions of matrix products, convolutions and attention in a forward pass
and in a training step (Conv-LoRA, rank 3, batch 1), as torch's FlopCounterMode sees them, recomputed ones
included. Measured, each as the median of several calls with two threads, are the products that the network
is made of: 4096 tokens by an MLP's layer, large square matrices, and torch's attention over 4096 tokens in 12
heads; in float32 and in bfloat16. The floor is the operations over the highest and the lowest rate of the
products: what a step would take if nothing but products took time. No bar: peer.py's are judged with it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from adapter_step import loss_of, network_of
from interleave import write
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from semseg_automl.core.config import AdapterConfig
from semseg_automl.models.devices import prepare_cpu
from semseg_automl.models.encoders.sam_vit import SamViTEncoder

TOKENS, WIDTH, HEADS = 4096, 768, 12
SQUARE = 2048
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def of_attention(q: Sequence[int], k: Sequence[int], *_others: Any, **_named: Any) -> int:
    """Operations of softmax(q k^T) v from shapes (B, heads, N, d) and (B, heads, M, d)."""
    return 4 * math.prod(q) * k[2]


def of_added_product(_into: Sequence[int], left: Sequence[int], right: Sequence[int], **_named: Any) -> int:
    """Operations of a batch of products (B, n, m) (B, m, p)."""
    return 2 * math.prod(left) * right[2]


UNKNOWN = {  # to the counter: the CPU's attention kernel, and products that are added in place
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention,
    torch.ops.aten.baddbmm_: of_added_product,
}


def products(dtype: torch.dtype) -> dict[str, tuple[Callable[[], Any], float]]:
    """Calls by name and the operations of each."""
    tokens, layer = torch.randn(TOKENS, WIDTH, dtype=dtype), torch.randn(WIDTH, 4 * WIDTH, dtype=dtype)
    left, right = (torch.randn(SQUARE, SQUARE, dtype=dtype) for _ in range(2))
    q, k, v = (torch.randn(1, HEADS, TOKENS, WIDTH // HEADS, dtype=dtype) for _ in range(3))
    return {
        "4096 tokens by an MLP's layer": (lambda: tokens @ layer, 2.0 * TOKENS * WIDTH * 4 * WIDTH),
        "2048 x 2048 matrices": (lambda: left @ right, 2.0 * SQUARE**3),
        "attention over 4096 tokens": (
            lambda: F.scaled_dot_product_attention(q, k, v),
            4.0 * TOKENS * TOKENS * WIDTH,
        ),
    }


def rate(call: Callable[[], Any], operations: float, rounds: int) -> float:
    """GFLOP/s, the median of the calls after a first one."""
    call()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return round(operations / statistics.median(seconds) / 1e9, 1)


def counted(size: int) -> dict[str, float]:
    """TFLOP of a prediction and of a training step of ViT-B."""
    network = network_of(SamViTEncoder, AdapterConfig(rank=3, routing="learned"))
    images, masks = torch.randn(1, 3, size, size), torch.randint(0, 2, (1, size, size))
    found = {}
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN) as counter, torch.inference_mode():
        network.eval()(images)
    found["predict"] = round(counter.get_total_flops() / 1e12, 3)
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN) as counter:
        loss_of(network.train(), network(images), masks).backward()
    found["train"] = round(counter.get_total_flops() / 1e12, 3)
    return found


def main() -> int:
    """Count, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=1024)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    prepare_cpu()
    with torch.inference_mode():
        rates = {
            kind: {name: rate(call, work, arguments.rounds) for name, (call, work) in products(dtype).items()}
            for kind, dtype in TYPES.items()
        }
    work = counted(arguments.size)
    low, high = min(rates["float32"].values()), max(rates["float32"].values())
    floor = {name: [round(1e3 * t / high, 2), round(1e3 * t / low, 2)] for name, t in work.items()}
    write(
        "rates",
        {"threads": 2, "size": arguments.size, "gflop_per_second": rates, "tflop": work}
        | {"float32_floor_seconds": floor},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

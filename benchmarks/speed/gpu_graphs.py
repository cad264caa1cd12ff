"""Training steps on a CUDA device: replayed as CUDA graphs, as ``fit`` runs them, against plain ones.

    python benchmarks/speed/gpu_graphs.py [--rounds 15] [--output FILE] [--case mobile_sam:512:4 ...]

A step is forward, loss, backward and AdamW on a batch that lies on the device; both forms take turns, and
each call ends with a synchronisation. Random weights, which do not change what a step costs. No bar.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from adapter_step import network_of
from gpu_step import METHODS, PRECISIONS, on_device
from interleave import interleaved, ratio, spread, write

from semseg_automl.core.config import RunConfig
from semseg_automl.models.devices import give_back_memory, out_of_memory
from semseg_automl.training.graphs import StepGraphs
from semseg_automl.training.module import SegmentationModule
from semseg_automl.training.validate import autocast

CASES = ("mobile_sam:512:4", "mobile_sam:1024:4", "sam_vit_b:1024:1", "sam_vit_b:1024:4")
WARM_UP = 6


def steps_of(
    encoder: str, size: int, batch: int, method: str, precision: str
) -> dict[str, Callable[[], None]]:
    """A plain and a replayed training step of the same network."""
    network = network_of(lambda: on_device(encoder), METHODS[method]).train()
    images = torch.randn(batch, 3, size, size, device="cuda")
    masks = torch.randint(0, 2, (batch, size, size), device="cuda")
    module = SegmentationModule(network, RunConfig(), "binary", lambda step: 0.5)
    parameters = network.trainable_parameters()
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    graphs = StepGraphs(module.losses, parameters, network.adapters)

    def step(losses: Any) -> None:
        with autocast(images.device, precision):
            _, total = losses(images, masks)
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()

    return {"plain": lambda: step(module.losses), "replayed": lambda: step(graphs)}


def measure(case: str, rounds: int) -> dict[str, Any]:
    """One encoder, size and batch with every method and precision."""
    encoder, size, batch = case.split(":")
    found: dict[str, Any] = {"case": case, "steps": {}}
    for method in METHODS:
        for name, precision in PRECISIONS.items():
            steps = steps_of(encoder, int(size), int(batch), method, precision)
            interleaved(steps, 0, warm_up=WARM_UP)
            taken = interleaved(steps, rounds, warm_up=0)
            found["steps"][f"{method} {name}"] = {
                **{form: spread(seconds) for form, seconds in taken.items()},
                "replayed_over_plain": ratio(taken["replayed"], taken["plain"]),
                "reserved_mib": round(torch.cuda.max_memory_reserved() / 2**20),
            }
            print(case, method, name, found["steps"][f"{method} {name}"], flush=True)
            del steps
            give_back_memory("cuda")
            torch.cuda.reset_peak_memory_stats()
    return found


def main() -> int:
    """Measure case by case; each is written as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--case", nargs="+", default=list(CASES), dest="cases")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gpu_graphs.json")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for case in arguments.cases:
        try:
            results.append(measure(case, arguments.rounds))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            results.append({"case": case, "skipped": "out of memory"})
        write("gpu_graphs", {"gpu": torch.cuda.get_device_name(), "cases": results}, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

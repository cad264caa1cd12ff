"""Training steps and predictions on a CUDA device: methods, precisions, memory, and what the time goes to.

    python benchmarks/speed/gpu_step.py [--seconds 90] [--output FILE] [--case mobile_sam:512:4 ...]

A step is forward, backward and AdamW on a batch that lies on the device; ``lora``, ``conv_lora`` (learned and
dense) and ``decoder_only`` in float32 (TF32 as torch and the library leave it) and in bfloat16 autocast take
turns. Each call ends with a synchronisation. Random weights, which do not change what a step costs.
``peak_mib`` is what a step takes beyond networks and optimisers. ``over_lora`` is the ratio within a
round. ``predictor``: pictures a second of the library's predictor, arrays in, masks out. One step is
profiled: ``busy`` is the share of an unprofiled step in which any kernel ran. Cases for which the time does
not suffice are named in ``skipped``. No bar: the figures are a first measurement.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapter_step import VARIANTS, loss_of, network_of
from gpu_profile import profile
from interleave import interleaved, ratio, spread, write

from semseg_automl.core.config import AdapterConfig
from semseg_automl.data.labels import LabelMap
from semseg_automl.inference.predict import Predictor
from semseg_automl.models.devices import describe_gpus, give_back_memory, out_of_memory
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder
from semseg_automl.training.validate import autocast

VIT_H = SamViTConfig(dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31))
ENCODERS: dict[str, Callable[[], Any]] = {
    "mobile_sam": TinyViTEncoder,
    "sam_vit_b": SamViTEncoder,
    "sam_vit_h": lambda: SamViTEncoder(VIT_H),
}
METHODS: dict[str, AdapterConfig] = {
    **{name: config for name, config in VARIANTS.items() if name != "lora_again"},
    "decoder_only": AdapterConfig(adapter="decoder_only"),
}
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}
CASES = ("mobile_sam:512:4", "mobile_sam:1024:4", "sam_vit_b:1024:1", "sam_vit_b:1024:4", "sam_vit_h:1024:1")
PROFILED = ("mobile_sam", 512, "conv_lora_learned bfloat16")
MOST, LEAST = 20, 3
PICTURES = 64
Steps = dict[str, Callable[[], None]]


def on_device(encoder: str) -> Any:
    """An encoder made on the device."""
    with torch.device("cuda"):
        return ENCODERS[encoder]()


def steps_of(encoder: str, size: int, batch: int) -> tuple[Steps, Steps]:
    """Training steps and predictions by "<method> <precision>"; the precisions share a network."""
    images = torch.randn(batch, 3, size, size, device="cuda")
    masks = torch.randint(0, 2, (batch, size, size), device="cuda")
    train: Steps = {}
    predict: Steps = {}
    for method, config in METHODS.items():
        network = network_of(lambda: on_device(encoder), config)
        optimizer = torch.optim.AdamW(network.trainable_parameters(), lr=1e-6)

        def step(precision: str, network: Any = network, optimizer: Any = optimizer) -> None:
            network.train()
            with autocast(images.device, precision):
                logits = network(images)
            loss_of(network, logits, masks).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.synchronize()

        def forward(precision: str, network: Any = network) -> None:
            network.eval()
            with torch.inference_mode(), autocast(images.device, precision):
                network(images)
            torch.cuda.synchronize()

        for name, precision in PRECISIONS.items():
            train[f"{method} {name}"] = lambda p=precision, s=step: s(p)  # type: ignore[misc]
            predict[f"{method} {name}"] = lambda p=precision, f=forward: f(p)  # type: ignore[misc]
    return train, predict


def peak_of(step: Callable[[], None]) -> float:
    """MiB that a call takes beyond what was allocated before it."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def timed(steps: Steps, seconds: float) -> dict[str, list[float]]:
    """Seconds of each call in turns, for about ``seconds``; all were called before."""
    started = time.perf_counter()
    first = interleaved(steps, LEAST, warm_up=0)
    each = (time.perf_counter() - started) / LEAST
    rest = interleaved(steps, max(0, min(MOST, int(seconds / each)) - LEAST), warm_up=0)
    return {name: first[name] + rest[name] for name in steps}


def measure(encoder: str, size: int, batch: int, seconds: float) -> dict[str, Any]:
    """One case."""
    train, predict = steps_of(encoder, size, batch)
    interleaved(train, 0, warm_up=1)  # optimisers make their state
    found: dict[str, Any] = {"encoder": encoder, "size": size, "batch": batch}
    memory = {"train": {n: peak_of(s) for n, s in train.items()}}
    interleaved(predict, 0, warm_up=1)
    memory["predict"] = {n: peak_of(s) for n, s in predict.items()}
    taken, predicted = timed(train, seconds), timed(predict, seconds / 3)
    found["train"] = {n: spread(t) | {"peak_mib": memory["train"][n]} for n, t in taken.items()}
    for name in train:
        precision = name.split(" ")[1]
        found["train"][name]["over_lora"] = ratio(taken[name], taken[f"lora {precision}"])
    found["predict"] = {
        n: spread(t)
        | {"pictures_per_second": round(batch / statistics.median(t), 1), "peak_mib": memory["predict"][n]}
        for n, t in predicted.items()
    }
    if encoder == "mobile_sam":
        found["predictor"] = predictor_speed(size)
    if (encoder, size) == PROFILED[:2]:
        found["profile"] = profile(train[PROFILED[2]], statistics.median(taken[PROFILED[2]]))
        found["profile"]["of"] = PROFILED[2]
    return found


def predictor_speed(size: int) -> dict[str, float]:
    """Pictures a second of the library's predictor (float32): arrays in, masks out, in batches and alone."""
    network = network_of(lambda: on_device("mobile_sam"), AdapterConfig(routing="learned"))
    labels = LabelMap(problem_type="binary", names=("no", "yes"), values=(0, 255), ignore=None)
    predictor = Predictor(network, labels, size, device="cuda")
    pictures = list(np.random.default_rng(0).integers(0, 256, (PICTURES, size, size, 3), np.uint8))
    found = {}
    for name, batch in (("batches", "auto"), ("one at a time", 1)):
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            deque(predictor.iter_masks(pictures, batch), maxlen=0)
            found[name] = round(PICTURES / (time.perf_counter() - started), 1)
    return found


def run_all(cases: list[str], seconds: float) -> dict[str, Any]:
    """Measure what fits into ``seconds``; the rest is told."""
    end = time.monotonic() + seconds
    done: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for number, case in enumerate(cases):
        encoder, size, batch = case.split(":")
        left = end - time.monotonic()
        if left < 6.0:
            skipped[case] = "no time was left"
            continue
        try:
            done.append(measure(encoder, int(size), int(batch), 0.4 * left / (len(cases) - number)))
            done[-1]["seconds"] = round(left - (end - time.monotonic()), 1)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            skipped[case] = str(error).splitlines()[0]
        give_back_memory("cuda")
    return {"cases": done, "skipped": skipped}


def main() -> int:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=90.0, help="of wall clock, about")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--case", nargs="+", default=list(CASES), help="encoder:size:batch")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device")
    result = run_all(arguments.case, arguments.seconds)
    result |= {
        "gpu": describe_gpus()[0],
        "cuda": torch.version.cuda,
        "tf32": {
            "matmul": torch.backends.cuda.matmul.allow_tf32,
            "convolution": torch.backends.cudnn.allow_tf32,
        },
    }
    write("gpu_step", result, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

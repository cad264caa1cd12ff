"""How the peak memory of SAM's ViT encoder grows from 1024 to 2048 pixels (four times the tokens).

    python benchmarks/speed/encoder_memory.py [--encoder sam_vit_b | small] [--sizes 1024 2048]

Each figure comes from a process of its own: the peak resident memory of one pass minus what was resident
before it, float32, batch 1, two threads, random weights. ``predict`` is a pass without gradients, ``train`` a
forward and backward pass with LoRA in every block. Bar: at most 4.4 times. ``small`` has ViT-B's blocks at a
quarter of its width and half of its depth. Linux only (the kernel's peak counter).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import torch
from interleave import write

from semseg_automl.core.config import AdapterConfig
from semseg_automl.models.devices import DeviceChoice, memory_probe, prepare_cpu
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from semseg_automl.peft.inject import inject

BAR = 4.4
CONFIGS = {
    "sam_vit_b": SamViTConfig(),
    "small": SamViTConfig(dim=192, depth=6, heads=3, global_blocks=(2, 5)),
}


def child(encoder_name: str, size: int, mode: str) -> dict[str, float]:
    """One pass in this process."""
    torch.set_num_threads(2)
    prepare_cpu()
    torch.manual_seed(0)
    encoder = SamViTEncoder(CONFIGS[encoder_name])
    inject(encoder, encoder.sites(), AdapterConfig(adapter="lora"))
    image = torch.randn(1, 3, size, size)
    before = resident()
    with memory_probe(DeviceChoice("cpu")) as probe, torch.set_grad_enabled(mode == "train"):
        out = encoder(image).embedding
        if mode == "train":
            out.square().mean().backward()
    return {"mib": ((probe.peak_bytes or 0) - before) / 2**20, "seconds": probe.seconds}


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * 4096


def main() -> int:
    """Measure, write the JSON, return 1 if the bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", choices=CONFIGS, default="sam_vit_b")
    parser.add_argument("--sizes", type=int, nargs=2, default=[1024, 2048])
    parser.add_argument("--child", nargs=2, metavar=("SIZE", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sys.stdout.write(json.dumps(child(arguments.encoder, int(arguments.child[0]), arguments.child[1])))
        return 0
    result: dict[str, Any] = {"encoder": arguments.encoder, "sizes": arguments.sizes, "bar": BAR}
    for mode in ("predict", "train"):
        found = []
        for size in arguments.sizes:
            command = [sys.executable, __file__, "--encoder", arguments.encoder, "--child", str(size), mode]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found.append(json.loads(answer))
        growth = found[1]["mib"] / found[0]["mib"]
        result[mode] = {
            "growth": round(growth, 3),
            "met": growth <= BAR,
            "small": found[0],
            "large": found[1],
        }
    write("encoder_memory", result)
    return int(not all(result[mode]["met"] for mode in ("predict", "train")))


if __name__ == "__main__":
    sys.exit(main())

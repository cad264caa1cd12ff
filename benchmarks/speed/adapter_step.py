"""What Conv-LoRA adds to a training step over LoRA of equal rank: whole network, forward and backward.

    python benchmarks/speed/adapter_step.py [--encoder mobile_sam sam_vit_b] [--size 512 1024] [--rounds 9]

One picture, float32, two threads, rank 8, 8 experts; learned and dense routing against LoRA, with a second
LoRA beside to show the noise. Bar: at most 1.08 times LoRA. Both encoders have random weights, which do not
change what a step costs (denormals are flushed). Cases that are not measured now keep their figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from interleave import RESULTS, interleaved, ratio, spread, write
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig
from semseg_automl.losses.functional import structure
from semseg_automl.models.decoder import SemanticHead
from semseg_automl.models.devices import prepare_cpu
from semseg_automl.models.encoders.sam_vit import SamViTEncoder
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft.inject import collect_balance_loss, inject

ENCODERS: dict[str, Callable[[], Any]] = {"mobile_sam": TinyViTEncoder, "sam_vit_b": SamViTEncoder}
BAR = 1.08
VARIANTS: dict[str, AdapterConfig] = {
    "lora": AdapterConfig(adapter="lora"),
    "lora_again": AdapterConfig(adapter="lora"),
    "conv_lora_learned": AdapterConfig(routing="learned"),
    "conv_lora_dense": AdapterConfig(routing="dense"),
}


def network_of(build: Callable[[], Any], config: AdapterConfig) -> Segmenter:
    """A network with random weights and one output, in training mode, on the encoder's device."""
    torch.manual_seed(0)
    encoder = build()
    adapters = inject(encoder, encoder.sites(), config)
    head = SemanticHead(1, embed_dim=encoder.embed_dim, skip_channels=encoder.skip_channels)
    return Segmenter(encoder, head, adapters).to(next(encoder.parameters()).device).train()


def loss_of(segmenter: Segmenter, logits: Tensor, masks: Tensor) -> Tensor:
    """Loss of logits at a quarter of the size of the (B, H, W) masks, balance loss included."""
    logits = F.interpolate(logits.float(), size=masks.shape[-2:], mode="bilinear")
    return structure(logits, masks) + 0.01 * collect_balance_loss(segmenter.adapters)


def step_of(name: str, config: AdapterConfig, size: int) -> Callable[[], None]:
    """A training step without the optimiser on one picture of size x size."""
    segmenter = network_of(ENCODERS[name], config)
    images, masks = torch.randn(1, 3, size, size), torch.randint(0, 2, (1, size, size))

    def step() -> None:
        loss_of(segmenter, segmenter(images), masks).backward()
        segmenter.zero_grad(set_to_none=True)

    return step


def main() -> int:
    """Measure, write the JSON, return 1 if the bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--size", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    prepare_cpu()
    cases: list[dict[str, Any]] = []
    for encoder in arguments.encoder:
        for size in arguments.size:
            steps = {name: step_of(encoder, config, size) for name, config in VARIANTS.items()}
            seconds = interleaved(steps, arguments.rounds, warm_up=1)
            over = {n: ratio(seconds[n], seconds["lora"]) for n in VARIANTS if n != "lora"}
            met = max(over["conv_lora_learned"], over["conv_lora_dense"]) <= BAR
            cases.append(
                {"encoder": encoder, "size": size, "rounds": arguments.rounds, "over_lora": over}
                | {"bar": BAR, "met": met}
                | {name: spread(values) for name, values in seconds.items()}
            )
    write("adapter_step", {"threads": 2, "batch": 1, "cases": with_earlier(cases)})
    return int(not all(c["met"] for c in cases))


def with_earlier(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These cases and, from the results that are there, those of other encoders and sizes."""
    path, new = RESULTS / "adapter_step.json", {(c["encoder"], c["size"]) for c in cases}
    found = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else []
    kept = [c for c in found if (c["encoder"], c["size"]) not in new]
    return sorted(kept + cases, key=lambda c: (c["encoder"], c["size"]))


if __name__ == "__main__":
    sys.exit(main())

"""A training step with adapters in the last four blocks, from kept features, against adapters everywhere.

    python benchmarks/speed/placement.py [--encoder sam_vit_b] [--size 1024] [--rounds 5]

SAM ViT-B, Conv-LoRA rank 8 with 8 experts, one picture, float32, two threads, random weights. ``all`` adapts
every block; ``last_4`` does the last four and takes the map below them from the feature cache (the read is
part of its step); ``last_4_computed`` computes that map. Bar: ``last_4`` at most 0.45 of ``all``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from adapter_step import ENCODERS
from interleave import interleaved, ratio, spread, write
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig
from semseg_automl.losses.functional import structure
from semseg_automl.models.decoder import SemanticHead
from semseg_automl.models.devices import prepare_cpu
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft.inject import collect_balance_loss, inject
from semseg_automl.training.feature_cache import FeatureCache
from semseg_automl.training.feature_store import FeatureStore

BAR = 0.45


def step_of(encoder_name: str, placement: str, size: int, store: Path | None) -> Callable[[], None]:
    """A training step without the optimiser; with ``store`` what is frozen comes from there."""
    torch.manual_seed(0)
    encoder = ENCODERS[encoder_name]()
    adapters = inject(encoder, encoder.sites(), AdapterConfig(placement=placement, routing="learned"))
    head = SemanticHead(1, embed_dim=encoder.embed_dim, skip_channels=encoder.skip_channels)
    segmenter = Segmenter(encoder, head, adapters).train()
    if store is not None:
        cut = encoder.first_trained()
        segmenter.cached_lower = FeatureCache(encoder, cut, FeatureStore(store), "32-true", "cpu")
    images, masks = torch.randn(1, 3, size, size), torch.randint(0, 2, (1, size, size))

    def step() -> None:
        logits = F.interpolate(segmenter(images), size=(size, size), mode="bilinear")
        (structure(logits, masks) + 0.01 * collect_balance_loss(adapters)).backward()
        segmenter.zero_grad(set_to_none=True)

    return step


def main() -> int:
    """Measure, write the JSON, return 1 if the bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", choices=ENCODERS, default="sam_vit_b")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    prepare_cpu()
    with tempfile.TemporaryDirectory() as folder:
        steps = {
            "all": step_of(arguments.encoder, "all", arguments.size, None),
            "last_4": step_of(arguments.encoder, "last_4", arguments.size, Path(folder)),
            "last_4_computed": step_of(arguments.encoder, "last_4", arguments.size, None),
        }
        seconds = interleaved(steps, arguments.rounds, warm_up=1)
    over: dict[str, Any] = {n: ratio(seconds[n], seconds["all"]) for n in steps if n != "all"}
    met = over["last_4"] <= BAR
    result = {**vars(arguments), "threads": 2, "batch": 1, "over_all": over, "bar": BAR, "met": met}
    write("placement", result | {name: spread(values) for name, values in seconds.items()})
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())

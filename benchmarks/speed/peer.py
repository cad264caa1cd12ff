"""SAM ViT-B at 1024 pixels, batch 1, Conv-LoRA rank 3: a training step and a prediction, ours and a peer's.

    python benchmarks/speed/peer.py --peer "COMMAND ..." [--pairs 3] [--modes train infer] [--steps 3]
    python benchmarks/speed/peer.py --ours-only

COMMAND runs one measurement of the peer in a process of its own and prints a JSON object as its last line.
``--mode train`` or ``--mode infer`` is appended to it. Read of the object are: ``median_s`` (of a step),
``peak_rss_mib`` and ``rss_before_steps_mib``. Ours is measured the same way: rank 3, alpha 32, 8 experts,
float32, two threads, denormals flushed, random weights, AdamW, one warm-up step. Processes take turns.

``--precision bf16-mixed`` runs ours as ``fit`` does on a processor that multiplies in bfloat16 (predictions
stay in float32), and writes results/peer_bfloat16.json; the bars are float32's.

Each mode is run twice: ``shipped`` (ours keeps freed memory in the process, as it does for its users), and
``same``, with the same glibc allocator settings for both. Bars, ours over the peer's: a training step 0.45
(same allocator: 0.65), a prediction 0.5 (0.75), peak memory above the loaded model 0.4 (as shipped).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from interleave import write
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig
from semseg_automl.losses.functional import structure
from semseg_automl.models.decoder import SemanticHead
from semseg_automl.models.devices import peak_resident, prepare_cpu
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft.inject import collect_balance_loss, inject
from semseg_automl.training.validate import autocast

BARS = {
    ("train", "shipped"): 0.45,
    ("train", "same"): 0.65,
    ("infer", "shipped"): 0.5,
    ("infer", "same"): 0.75,
}
MEMORY_BAR = 0.4
ALLOCATORS = ("shipped", "same")
SAME_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


def child(mode: str, steps: int, size: int, depth: int, precision: str) -> dict[str, float]:
    """Our measurement, in this process."""
    torch.set_num_threads(2)
    prepare_cpu()
    torch.manual_seed(0)
    encoder = SamViTEncoder(SamViTConfig(depth=depth, global_blocks=tuple(range(2, depth, 3))))
    for parameter in (encoder.pos_embed, *(p for n, p in encoder.named_parameters() if "rel_pos" in n)):
        torch.nn.init.normal_(parameter, std=0.02)
    adapters = inject(encoder, encoder.sites(), AdapterConfig(rank=3, alpha=32.0, routing="learned"))
    segmenter = Segmenter(encoder, SemanticHead(1, embed_dim=encoder.embed_dim, skip_channels={}), adapters)
    segmenter.train(mode == "train")
    optimizer = torch.optim.AdamW(segmenter.trainable_parameters(), lr=1e-4, weight_decay=1e-4)
    images, masks = torch.randn(1, 3, size, size), torch.zeros(1, size, size, dtype=torch.int64)
    masks[:, size // 4 : size // 2, size // 4 : size // 2] = 1
    before, seconds = peak_resident() or 0, []
    for _ in range(steps + 1):
        started = time.perf_counter()
        with torch.inference_mode(mode == "infer"):
            with autocast(images.device, precision):
                logits = segmenter(images)
            logits = F.interpolate(logits.float(), size=(size, size), mode="bilinear")
        if mode == "train":
            (structure(logits, masks) + collect_balance_loss(adapters)).backward()
            torch.nn.utils.clip_grad_norm_(segmenter.trainable_parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        else:
            logits.sigmoid()
        seconds.append(time.perf_counter() - started)
    peak = peak_resident() or 0
    return {
        "median_s": statistics.median(seconds[1:]),
        "peak_rss_mib": peak / 2**20,
        "rss_before_steps_mib": before / 2**20,
    }


def measure(command: list[str], allocator: str) -> dict[str, float]:
    """Run one measurement and read the JSON object in its last line."""
    extra = SAME_ALLOCATOR if allocator == "same" else {}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **extra})
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Medians over processes: seconds, and MiB above the loaded model."""
    return {
        "median_s": round(statistics.median(r["median_s"] for r in runs), 3),
        "above_model_mib": round(
            statistics.median(r["peak_rss_mib"] - r["rss_before_steps_mib"] for r in runs)
        ),
    }


def compare(arguments: argparse.Namespace, mode: str, allocator: str) -> dict[str, Any]:
    """Pairs of processes in turn; ratios of medians against the bars."""
    sizes = ["--steps", str(arguments.steps), "--size", str(arguments.size), "--depth", str(arguments.depth)]
    sizes += ["--precision", arguments.precision]
    ours, peers = [], []
    for _ in range(arguments.pairs):
        ours.append(measure([sys.executable, __file__, "--child", mode, *sizes], allocator))
        if not arguments.ours_only:
            peers.append(measure([*shlex.split(arguments.peer), "--mode", mode], allocator))
    result: dict[str, Any] = {"mode": mode, "allocator": allocator, "ours": summary(ours)}
    if peers:
        theirs, mine = summary(peers), summary(ours)
        result |= {"peer": theirs, "time_over_peer": round(mine["median_s"] / theirs["median_s"], 3)}
        result["memory_over_peer"] = round(mine["above_model_mib"] / theirs["above_model_mib"], 3)
        met = result["time_over_peer"] <= BARS[mode, allocator]
        if allocator == "shipped":
            met = met and result["memory_over_peer"] <= MEMORY_BAR
        result |= {"bar": BARS[mode, allocator], "memory_bar": MEMORY_BAR, "met": met}
    return result


def main() -> int:
    """Measure, write the JSON, return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--peer", help="the peer's command")
    what.add_argument("--ours-only", action="store_true")
    what.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--modes", nargs="+", choices=("train", "infer"), default=["train", "infer"])
    parser.add_argument("--allocators", nargs="+", choices=ALLOCATORS, default=list(ALLOCATORS))
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=12, help="blocks; 12 is ViT-B")
    arguments = parser.parse_args()
    if arguments.child:
        found = child(arguments.child, arguments.steps, arguments.size, arguments.depth, arguments.precision)
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    cases = [compare(arguments, mode, how) for mode in arguments.modes for how in arguments.allocators]
    settings = {k: getattr(arguments, k) for k in ("pairs", "steps", "size", "depth", "precision")}
    name = "peer" if arguments.precision == "32-true" else "peer_bfloat16"
    write(name, {**settings, "threads": 2, "same_allocator": SAME_ALLOCATOR, "cases": cases})
    return int(not all(c.get("met", True) for c in cases))


if __name__ == "__main__":
    sys.exit(main())

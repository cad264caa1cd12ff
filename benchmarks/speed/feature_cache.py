"""What the feature cache saves: an epoch from kept features against the epoch that computes them.

    python benchmarks/speed/feature_cache.py [--backbone mobile_sam] [--size 1024] [--pictures 8]
        [--adapter decoder_only] [--placement all] [--epochs 6] [--bar 0.25]

Real training steps (loss, backward, optimiser, weight average) over generated pictures, batch 4, flips only,
two threads. Half of the second epoch's pictures come in the other flip for the first time, so epochs are
told apart by what they had to compute: ``first`` computes every picture, ``kept`` are the epochs that compute
none. Bar: the median of ``kept`` over ``first``. The mean loss of the last epoch must equal that of the same
training without a cache.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from interleave import write

from semseg_automl.core.config import RunConfig
from semseg_automl.data.dataset import collate
from semseg_automl.data.datasets import make_textures
from semseg_automl.data.frame import check_table
from semseg_automl.data.labels import infer_label_map, scan_masks
from semseg_automl.models.checkpoints import resolve_weights
from semseg_automl.models.devices import prepare_cpu
from semseg_automl.training.batches import EndlessBatches
from semseg_automl.training.feature_cache import attach_cache
from semseg_automl.training.fit import make_datasets, make_segmenter
from semseg_automl.training.job import TrainJob
from semseg_automl.training.module import SegmentationModule

BATCH = 4


def make_job(arguments: argparse.Namespace, folder: Path) -> TrainJob:
    """The training that is measured, on pictures that already have the network's size."""
    size = arguments.size
    samples = check_table(
        make_textures(folder, n=arguments.pictures, size=(size, size), n_classes=2, seed=0), need_label=True
    )
    config = RunConfig().replace(
        backbone=arguments.backbone,
        adapter=arguments.adapter,
        placement=arguments.placement,
        image_size=size,
        batch_size=BATCH,
        augment="light",
    )
    return TrainJob(
        config=config,
        label_map=infer_label_map(scan_masks(samples.masks or ())),
        train=samples,
        val=samples,
        weights=resolve_weights(arguments.backbone),
        eval_metric="iou",
        feature_cache=str(folder / "features"),
    )


def run(job: TrainJob, epochs: int) -> list[dict[str, float]]:
    """Seconds, pictures computed and mean loss of each epoch."""
    torch.manual_seed(0)
    data = make_datasets(job)[0]
    data.preload()
    segmenter = make_segmenter(job).train()
    cache = attach_cache(segmenter, job)
    module = SegmentationModule(segmenter, job.config, "binary", lambda _step: 0.5)
    optimizer = module.configure_optimizers()
    batches = iter(EndlessBatches(len(data), BATCH, seed=0))
    found = []
    for _ in range(epochs):
        before, losses, started = 0 if cache is None else cache.computed, [], time.perf_counter()
        for _ in range(len(data) // BATCH):
            loss = module.training_step(collate([data[key] for key in next(batches)]), 0)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            module.average.update()
            losses.append(float(loss.detach()))
        seconds = time.perf_counter() - started
        computed = len(data) if cache is None else cache.computed - before
        found.append({"seconds": seconds, "computed": computed, "loss": statistics.mean(losses)})
    return found


def main() -> int:
    """Measure, write the JSON, return 1 if the bar is missed or the losses differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="mobile_sam")
    parser.add_argument("--adapter", default="decoder_only")
    parser.add_argument("--placement", default="all")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--bar", type=float, default=0.25)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    prepare_cpu()
    with tempfile.TemporaryDirectory() as name:
        job = make_job(arguments, Path(name))
        run(replace(job, feature_cache=str(Path(name) / "warm-up")), 1)
        cached = run(job, arguments.epochs)
        plain = run(replace(job, feature_cache=None), arguments.epochs)
    kept = [e["seconds"] for e in cached[1:] if e["computed"] == 0]
    first, result = cached[0]["seconds"], {**vars(arguments), "batch": BATCH, "threads": 2}
    loss_difference = abs(cached[-1]["loss"] - plain[-1]["loss"]) / plain[-1]["loss"]
    quotient: dict[str, Any] = {
        "kept_over_first": round(statistics.median(kept) / first, 3) if kept else None,
        "second_over_first": round(cached[1]["seconds"] / first, 3),
        "first_over_no_cache": round(first / statistics.median(e["seconds"] for e in plain), 3),
        "loss_difference": round(loss_difference, 6),
    }
    met = bool(kept) and quotient["kept_over_first"] <= arguments.bar and loss_difference < 1e-3
    write("feature_cache", {**result, **quotient, "met": met, "epochs_cached": cached, "epochs_plain": plain})
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())

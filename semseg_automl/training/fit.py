"""One training run in this process: build, train with Lightning under the clock, keep the best."""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Iterator
from typing import Any

import lightning
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from semseg_automl.core.errors import TrainingError
from semseg_automl.core.log import get_logger
from semseg_automl.data.dataset import SegmentationDataset, collate
from semseg_automl.models.build import build_segmenter
from semseg_automl.models.devices import peak_memory_mb, prepare_cpu
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.training.batches import EndlessBatches, largest_micro_batch
from semseg_automl.training.callbacks import Coach, Pacer
from semseg_automl.training.job import Hooks, TrainJob, TrainResult
from semseg_automl.training.module import SegmentationModule

_LOG = get_logger("training")


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's banners and advice off the user's screen; leave its loggers as found."""
    names = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning.*")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def make_datasets(job: TrainJob) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The augmented training pictures and the validation pictures of a job."""
    model, optim = job.config.model, job.config.optim
    common: dict[str, Any] = {"image_size": model.image_size, "scaling": job.scaling, "seed": job.seed}
    train = SegmentationDataset(
        job.train, job.label_map, augment=optim.augment, crop_size=optim.crop_size, **common
    )
    return train, SegmentationDataset(job.val, job.label_map, augment="none", **common)


def make_segmenter(job: TrainJob) -> Segmenter:
    """The network of a job, from the backbone's weights and, if given, trained tensors."""
    segmenter = build_segmenter(job.config, job.label_map.num_outputs, weights=job.weights, seed=job.seed)
    if job.init is not None:
        segmenter.load_trainable_state(dict(job.init.adapter), dict(job.init.head))
    return segmenter


def train(job: TrainJob, hooks: Hooks | None = None, *, rank: int = 0, world: int = 1) -> TrainResult:
    """Train one model and return its best averaged weights.

    Parameters
    ----------
    job
        What to train. ``job.max_steps=None`` runs ``max_epochs`` epochs.
    hooks
        Clock, pruning, interruption and progress; the default is "no limit, no report".
    rank, world
        This process's number among the processes that train together (DDP).

    Raises
    ------
    TrainingError
        The loss or the output became NaN or infinite before anything usable was validated.
    """
    hooks = hooks or Hooks()
    started = time.perf_counter()
    if job.accelerator == "cpu":
        prepare_cpu()
    train_set, val_set = make_datasets(job)
    segmenter = make_segmenter(job)
    optim = job.config.optim
    max_steps = job.max_steps or math.ceil(optim.max_epochs * len(train_set) / optim.batch_size)
    pacer = Pacer(hooks, max_steps)
    module = SegmentationModule(
        segmenter, job.config, job.label_map.problem_type, pacer.fraction, job.class_weights
    )
    coach = Coach(val_set, pacer, hooks, eval_metric=job.eval_metric, precision=job.precision)
    share = optim.batch_size // world
    micro = largest_micro_batch(share, job.micro_batch_size or share)
    coach.micro_batch = micro
    batches = EndlessBatches(
        len(train_set), optim.batch_size, seed=job.seed, rank=rank, world=world, micro=micro
    )
    loader: DataLoader = DataLoader(
        train_set,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=job.num_workers,  # type: ignore[arg-type]
        persistent_workers=False,
        pin_memory=job.accelerator == "cuda",
    )
    with quiet_lightning():
        trainer = _trainer(job, coach, max_steps, share // micro, world)
        try:
            trainer.fit(module, train_dataloaders=loader)
        except FloatingPointError as error:
            if coach.best_state is None:
                raise TrainingError(f"Training stopped: {error}.") from error
            coach.state = "nan"
            _LOG.warning("Training stopped early: %s. The best weights so far are kept.", error)
    return _result(job, coach, module, trainer.global_step, time.perf_counter() - started)


def _trainer(job: TrainJob, coach: Coach, max_steps: int, accumulate: int, world: int) -> lightning.Trainer:
    kind = {"cuda": "gpu"}.get(job.accelerator, job.accelerator)
    settings: dict[str, Any] = {"devices": 1 if kind != "gpu" else list(job.device_ids[:1])}
    if world > 1:
        backend = "nccl" if kind == "gpu" else "gloo"
        settings = {
            "devices": list(job.device_ids) if kind == "gpu" else world,
            "strategy": DDPStrategy(process_group_backend=backend, find_unused_parameters=False),
            "plugins": [LightningEnvironment()],
        }
    return lightning.Trainer(
        accelerator=kind,
        precision=job.precision,  # type: ignore[arg-type]
        max_steps=max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=job.config.optim.gradient_clip or None,
        callbacks=[coach],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


def _result(
    job: TrainJob, coach: Coach, module: SegmentationModule, steps: int, seconds: float
) -> TrainResult:
    best = coach.best
    if best is None or coach.best_state is None:
        raise TrainingError("Training ended before a single validation; nothing usable was kept.")
    return TrainResult(
        state=coach.state,
        score=best.score,
        threshold=best.threshold,
        metrics=best.metrics,
        model=coach.best_state,
        steps=steps,
        epochs=steps * job.config.optim.batch_size / len(job.train),
        seconds=seconds,
        train_seconds=sum(coach.step_seconds),
        val_seconds=coach.val_seconds,
        seconds_per_step=coach.seconds_per_step,
        predict_seconds=best.seconds / max(1, best.pictures),
        peak_memory_mb=peak_memory_mb(job.accelerator),
        n_trainable=sum(p.numel() for p in module.segmenter.trainable_parameters()),
        history=tuple(coach.history),
        never_predicted=best.never_predicted,
    )

"""One training run in this process: build, train with Lightning under the clock, keep the best."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import math
import time
import warnings
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from semseg_automl.core.errors import DataError, TrainingError
from semseg_automl.core.log import get_logger
from semseg_automl.data.class_crops import ClassCrops
from semseg_automl.data.dataset import SegmentationDataset, collate
from semseg_automl.data.fingerprint import class_pixels
from semseg_automl.data.images import network_channels
from semseg_automl.losses.weights import NO_WEIGHTS, class_weights
from semseg_automl.models.build import build_segmenter
from semseg_automl.models.devices import flushed_denormals, peak_memory_mb, prepare_cpu, restart_peak
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.training.batches import EndlessBatches, largest_micro_batch
from semseg_automl.training.callbacks import Coach, Pacer
from semseg_automl.training.checkpoint import Checkpoint, CheckpointFile, find_checkpoint
from semseg_automl.training.feature_cache import attach_cache, forms
from semseg_automl.training.graphs import StepGraphs, can_record
from semseg_automl.training.job import Hooks, TrainJob, TrainResult
from semseg_automl.training.module import SegmentationModule
from semseg_automl.training.readers import in_own_words, killed_reader

_LOG = get_logger("training")
_PATIENCE = datetime.timedelta(days=1)
"""How long processes wait for rank 0's validation; ``launch`` notices the ones that died."""


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


@contextlib.contextmanager
def seeded_noise(job: TrainJob, rank: int) -> Iterator[None]:
    """Draw the gates' noise from freshly seeded global generators, and leave them as found.

    Processes that train together draw different noise, as the pictures of one batch do.
    """
    with torch.random.fork_rng(devices=job.device_ids[rank : rank + 1] if job.accelerator == "cuda" else ()):
        torch.manual_seed(job.seed + rank)
        yield


def make_datasets(job: TrainJob, world: int = 1) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The augmented training pictures and the validation pictures of a job.

    Each of the ``world`` processes, and each process that reads pictures for it, keeps a cache of
    its own; they share what one alone would take.
    """
    model, optim = job.config.model, job.config.optim
    common: dict[str, Any] = {"image_size": model.image_size, "scaling": job.scaling, "seed": job.seed}
    common["cache_share"] = 1.0 / (world * max(1, job.num_workers))
    train = SegmentationDataset(
        job.train,
        job.label_map,
        augment=job.own_augment or optim.augment,
        crop_size=optim.crop_size,
        still=job.feature_cache is not None and forms(optim.augment) is not None,
        aim=class_crops(job),
        **common,
    )
    return train, SegmentationDataset(job.val, job.label_map, augment="none", **common)


def class_crops(job: TrainJob) -> ClassCrops | None:
    """Where the job's crops are laid; None: anywhere."""
    optim = job.config.optim
    if not optim.class_crops or optim.crop_size is None:
        return None
    weights = class_weights(class_pixels(job.train.masks or (), job.label_map), "sqrt")
    return ClassCrops(share=optim.class_crops, weights=weights or ())


def make_segmenter(job: TrainJob) -> Segmenter:
    """The network of a job, from the backbone's weights and, if given, trained tensors."""
    segmenter = build_segmenter(
        job.config,
        job.label_map.num_outputs,
        weights=job.weights,
        seed=job.seed,
        trained=job.init is not None,
        channels=network_channels(job.scaling),
    )
    if job.init is not None:
        segmenter.load_trainable_state(dict(job.init.adapter), dict(job.init.head))
    return segmenter


def train(job: TrainJob, hooks: Hooks | None = None) -> TrainResult:
    """Train one model in this process, on the job's first device, and return its best averaged weights.

    Parameters
    ----------
    job
        What to train. ``job.max_steps=None`` runs ``max_epochs`` epochs.
    hooks
        Clock, pruning, interruption and progress; the default is "no limit, no report".

    Raises
    ------
    TrainingError
        The loss or the output became NaN or infinite before anything usable was validated.
    """
    result = train_rank(job, hooks or Hooks(), rank=0, world=1)
    if result is None:
        raise TrainingError("Training ended without a result.")
    return result


@flushed_denormals()
def train_rank(job: TrainJob, hooks: Hooks, *, rank: int, world: int) -> TrainResult | None:
    """As :func:`train`, as process ``rank`` of ``world`` that train one model together (DDP).

    Rank 0 validates, decides when to stop and has the result; the others answer None.

    Notes
    -----
    Without randomness inside the network and with the structure loss, ``world`` processes do what
    one does with the same ``batch_size``. Three things are done on each process's share of the
    batch, so that they differ a little, as they do between micro-batches:

    - the gates' noise: every process draws its own, from ``job.seed`` and its rank;
    - the balance loss: the squared coefficient of variation over its own pictures' gates, then the
      mean over processes (of the gradients, too);
    - the means over pixels (cross-entropy) and over the batch (soft Dice).
    """
    start = find_checkpoint(job)
    if start is not None and start.config.model.gradient_checkpointing:  # without it memory ran out
        job = dataclasses.replace(job, config=job.config.replace(gradient_checkpointing=True))
    started = time.perf_counter() - (start.seconds if start else 0.0)
    if job.accelerator == "cpu":
        prepare_cpu()
    restart_peak(job.accelerator)
    train_set, val_set = make_datasets(job, world)
    segmenter = make_segmenter(job)
    features = attach_cache(segmenter, job)
    segmenter.train()  # Lightning leaves modes as they are: gates need their noise and balance loss
    if rank == 0:
        parts = ", ".join(f"{name} {count:,}" for name, count in segmenter.parameter_report().items())
        _LOG.info("Parameters: %s.", parts)
    optim = job.config.optim
    max_steps = job.max_steps or math.ceil(optim.max_epochs * len(train_set) / optim.batch_size)
    pacer = Pacer(hooks, max_steps, start.seconds if start else 0.0)
    module = _module(job, segmenter, pacer, world, start)
    if can_record(job, segmenter, world):
        module.graphs = StepGraphs(module.losses, segmenter.trainable_parameters(), segmenter.adapters)
    coach = _coach(job, val_set, pacer, hooks, rank, world)
    if start is not None:
        coach.go_on_from(start)
        if _nothing_fits(start, hooks, max_steps, world):
            coach.state = "finished" if start.step >= max_steps else "time"
            return None if rank else _result(job, coach, module, start.step, start.seconds)
    with quiet_lightning(), seeded_noise(job, rank):
        trainer = _trainer(job, coach, max_steps - module.first_step, world)
        _fit(trainer, module, _loader(job, train_set, rank, world, module.first_step), coach)
    if features is not None:
        _LOG.info("Feature cache: %d pictures read, %d computed.", features.read, features.computed)
    if rank:
        return None
    _LOG.info("Waiting for pictures: %.1f %% of the steps.", 100.0 * coach.data_share)
    return _result(job, coach, module, coach.steps(trainer), time.perf_counter() - started)


def _fit(trainer: lightning.Trainer, module: SegmentationModule, loader: DataLoader, coach: Coach) -> None:
    """Train; what leaves a usable model behind is no error."""
    try:
        trainer.fit(module, train_dataloaders=loader)
    except FloatingPointError as error:
        if coach.rank == 0 and coach.best_state is None:
            raise TrainingError(f"Training stopped: {error}.") from error
        coach.state = "nan"
        _LOG.warning("Training stopped early: %s. The best weights so far are kept.", error)
    except DataError as error:
        if killed := killed_reader(error):  # it came while this process read a picture itself
            if not coach.stops_for(error, trainer, module):
                raise RuntimeError(killed) from error
        elif (plain := in_own_words(error)) is error:
            raise
        else:
            raise plain from None
    except RuntimeError as error:
        if not coach.stops_for(error, trainer, module):
            raise
    except SystemExit as error:  # what Lightning makes of a second Ctrl-C
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def _module(
    job: TrainJob, segmenter: Segmenter, pacer: Pacer, world: int, start: Checkpoint | None
) -> SegmentationModule:
    return SegmentationModule(
        segmenter,
        job.config,
        job.label_map.problem_type,
        pacer.fraction,
        weights_of(job),
        world=world,
        start=start,
        decay=job.decay,
    )


def _coach(
    job: TrainJob, val_set: SegmentationDataset, pacer: Pacer, hooks: Hooks, rank: int, world: int
) -> Coach:
    coach = Coach(
        val_set,
        pacer,
        hooks,
        eval_metric=job.eval_metric,
        precision=job.precision,
        mirror=job.tta,
        rank=rank,
        world=world,
        keep=None if job.checkpoint is None else CheckpointFile(job),
    )
    coach.micro_batch, coach.batch_size = micro_batch(job, world), job.config.optim.batch_size
    coach.expected_val = job.val_seconds
    return coach


def _nothing_fits(start: Checkpoint, hooks: Hooks, max_steps: int, world: int) -> bool:
    """Whether a run that goes on is at its end: its steps are done, or not even a validation fits.

    Processes that train together have clocks of their own, and may only agree on the steps.
    """
    return start.step >= max_steps or (world == 1 and hooks.remaining() <= 1.1 * start.val_cost)


def weights_of(job: TrainJob) -> tuple[float, ...] | None:
    """The classes' weights in the loss: the job's, else those of its ``class_weights`` scheme."""
    scheme = job.config.optim.class_weights
    if job.class_weights is not None or scheme == NO_WEIGHTS:
        return job.class_weights
    return class_weights(class_pixels(job.train.masks or (), job.label_map), scheme)


def micro_batch(job: TrainJob, world: int = 1) -> int:
    """Pictures in one forward pass of one process: what memory has shown, else as configured."""
    share = math.ceil(job.config.optim.batch_size / world)
    wanted = job.config.optim.micro_batch_size
    return largest_micro_batch(
        share, job.micro_batch_size or (share if isinstance(wanted, str) else int(wanted))
    )


def _loader(
    job: TrainJob, train_set: SegmentationDataset, rank: int, world: int, first_step: int
) -> DataLoader:
    batches = EndlessBatches(
        len(train_set),
        job.config.optim.batch_size,
        seed=job.seed,
        rank=rank,
        world=world,
        micro=micro_batch(job, world),
        skip=first_step,
    )
    return DataLoader(
        train_set,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=job.num_workers,
        persistent_workers=False,
        pin_memory=job.accelerator == "cuda",
    )


def _trainer(job: TrainJob, coach: Coach, max_steps: int, world: int) -> lightning.Trainer:
    precision: Any = job.precision  # Lightning wants one of its literals
    kind = {"cuda": "gpu"}.get(job.accelerator, job.accelerator)
    settings: dict[str, Any] = {"devices": 1 if kind != "gpu" else list(job.device_ids[:1])}
    if world > 1:
        backend = "nccl" if kind == "gpu" else "gloo"
        settings = {
            "devices": list(job.device_ids) if kind == "gpu" else world,
            "strategy": DDPStrategy(
                process_group_backend=backend,
                find_unused_parameters=False,
                broadcast_buffers=False,  # they are constants
                timeout=_PATIENCE,
            ),
        }
    return lightning.Trainer(
        accelerator=kind,
        precision=precision,
        max_steps=max_steps,
        max_epochs=-1,
        accumulate_grad_batches=job.config.optim.batch_size // world // micro_batch(job, world),
        callbacks=[coach],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=[
            LightningEnvironment()
        ],  # not the scheduler's (SLURM's tasks and signals): these are our processes
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
        train_seconds=coach.train_seconds,
        val_seconds=coach.val_seconds,
        seconds_per_step=coach.seconds_per_step,
        predict_seconds=best.seconds / max(1, best.pictures),
        peak_memory_mb=peak_memory_mb(job.accelerator),
        n_trainable=sum(p.numel() for p in module.segmenter.trainable_parameters()),
        history=tuple(coach.history),
        never_predicted=best.never_predicted,
        complete=best.complete,
        per_image=best.per_image,
    )

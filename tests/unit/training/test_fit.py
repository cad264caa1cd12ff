"""Whole training runs on the test backbone: determinism, steps, NaN, states, quietness."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semseg_automl.core.errors import TrainingError
from semseg_automl.data.frame import Samples
from semseg_automl.models.devices import flushes_denormals
from semseg_automl.training import losses as losses_file
from semseg_automl.training import module as module_file
from semseg_automl.training.fit import make_datasets, make_segmenter, micro_batch, quiet_lightning, train
from semseg_automl.training.job import Hooks, ModelState, TrainJob
from semseg_automl.training.optim import OPTIMIZERS
from semseg_automl.training.validate import validate

Make = Callable[..., TrainJob]


def tensors(model: ModelState) -> dict[str, Tensor]:
    return {**model.adapter, **model.head}


def same(a: ModelState, b: ModelState) -> bool:
    first, second = tensors(a), tensors(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("adapter", ["conv_lora", "decoder_only"])
def test_the_same_seed_gives_a_bit_equal_model(binary: bool, adapter: str, make_job: Make) -> None:
    """Whatever state the global generators are in, and they are left in it."""
    job = make_job(binary=binary, adapter=adapter, augment="strong", crop_size=48)
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        np.random.seed(noise)
        before = torch.random.get_rng_state()
        results.append(train(job))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert same(results[0].model, results[1].model)
    assert results[0].score == results[1].score
    assert [h[::2] for h in results[0].history] == [h[::2] for h in results[1].history]
    assert not same(results[0].model, train(replace(job, seed=1)).model)


def test_a_schedulers_environment_is_not_taken_for_ours(
    make_job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a SLURM job of several tasks Lightning would refuse to train on one device."""
    for name, value in {"NTASKS": "4", "JOB_NAME": "train", "JOB_ID": "7", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert train(make_job(max_epochs=1)).state == "finished"


def test_epochs_and_counts(make_job: Make) -> None:
    result = train(make_job(max_epochs=2, batch_size=3))
    assert result.steps == math.ceil(2 * 8 / 3) and result.epochs == pytest.approx(6 * 3 / 8)
    assert result.state == "finished" and result.n_trainable > 0 and result.history[-1][0] == result.steps
    scores = [h[2] for h in result.history]
    assert result.score in scores[scores.index(max(scores)) :]  # the peak, or a later one like it (select)
    assert train(make_job(max_steps=2)).steps == 2


@pytest.mark.parametrize(
    ("job_limit", "configured", "expected"), [(None, "auto", 4), (None, 2, 2), (1, 4, 1), (None, 3, 2)]
)
def test_micro_batches(job_limit: int | None, configured: object, expected: int, make_job: Make) -> None:
    assert micro_batch(make_job(micro_batch_size=configured)) == expected or job_limit
    job = replace(make_job(), micro_batch_size=job_limit)
    job = replace(job, config=job.config.replace(micro_batch_size=configured))
    assert micro_batch(job) == expected


def test_accumulation_equals_one_batch(make_job: Make) -> None:
    """With a loss that is a mean over pictures and nothing random inside, micro-batches change nothing."""
    job = make_job(binary=True, adapter="lora", max_steps=4, ema_decay=0.0, optimizer="sgd")
    whole, parts = train(job), train(replace(job, micro_batch_size=2))
    assert whole.steps == parts.steps == 4
    for name, value in tensors(whole.model).items():
        torch.testing.assert_close(value, tensors(parts.model)[name], atol=2e-5, rtol=1e-4)


def test_training_learns(make_job: Make) -> None:
    """The loss on one picture, over and over, falls far below its start."""
    job = make_job(binary=True, augment="none", batch_size=1, max_steps=40, learning_rate=3e-3)
    losses: list[float] = []
    one: Samples = job.train.subset([0])
    train(replace(job, train=one, val=one), Hooks(progress=lambda e: losses.append(e["loss"])))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])


def test_only_adapters_and_head_change(make_job: Make) -> None:
    job = make_job()
    adapter, head = make_segmenter(job).trainable_state()
    start = ModelState(adapter=adapter, head=head)
    end = train(job).model
    assert tensors(start).keys() == tensors(end).keys()
    changed = {k for k, v in tensors(end).items() if not torch.equal(v, tensors(start)[k])}
    assert changed and not {"gaussian_matrix", "no_mask_embed"} & changed


def test_init_is_where_training_starts(make_job: Make) -> None:
    trained = train(make_job()).model
    still = make_job(init=trained, learning_rate=1e-12, decoder_learning_rate=1e-12)
    again = train(still).model
    for name, value in tensors(trained).items():
        torch.testing.assert_close(tensors(again)[name], value, atol=1e-6, rtol=0)


def test_the_score_is_of_the_weights_that_are_kept(make_job: Make) -> None:
    job = make_job(binary=True, max_epochs=4)
    result = train(job)
    segmenter = make_segmenter(replace(job, init=result.model))
    found = validate(segmenter, make_datasets(job)[1], eval_metric="iou")
    assert found.score == pytest.approx(result.score, abs=1e-6)
    assert found.threshold == pytest.approx(result.threshold)


@pytest.mark.parametrize("after", [0, 5])
def test_a_loss_that_is_not_a_number(after: int, make_job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the start it is an error; later the best weights so far are kept."""
    real, calls = losses_file.resolve_loss, []

    def resolve(name: str, problem_type: str) -> Callable[..., Tensor]:
        loss = real(name, problem_type)

        def broken(*args: Tensor, **kwargs: Tensor) -> Tensor:
            calls.append(1)
            return loss(*args, **kwargs) * (math.nan if len(calls) > after else 1.0)

        return broken

    monkeypatch.setattr(losses_file, "resolve_loss", resolve)
    job = make_job(max_steps=8)
    if after == 0:
        with pytest.raises(TrainingError, match="the loss is nan"):
            train(job)
    else:
        result = train(job)
        assert result.state == "nan" and math.isfinite(result.score)
        assert all(v.isfinite().all() for v in tensors(result.model).values())


def test_pruned_interrupted_and_out_of_time_all_leave_a_model(make_job: Make) -> None:
    job = make_job(max_steps=30)
    pruned = train(job, Hooks(report=lambda _step, _score: True))
    assert pruned.state == "pruned" and pruned.steps < 30
    interrupted = train(job, Hooks(stop_requested=lambda: True))
    assert (interrupted.state, interrupted.steps) == ("interrupted", 1)
    late = train(job, Hooks(remaining=lambda: 0.0))
    assert (late.state, late.steps) == ("time", 1)
    for result in (pruned, interrupted, late):
        assert math.isfinite(result.score) and result.model.head


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("fused", [True, False])
def test_gradients_are_clipped_whatever_the_optimiser(
    fused: bool, precision: str, make_job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning itself refuses fused optimisers, which are taken on CUDA, in mixed precision."""
    norms: list[float] = []

    class Optimizer(torch.optim.AdamW):
        def __init__(self, groups: list, **kwargs: object) -> None:
            super().__init__(groups, **kwargs, fused=fused)  # type: ignore[arg-type]

        def step(self, closure: Any = None) -> Any:
            with torch.enable_grad():
                loss = closure()
            gradients = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))
            return super().step(lambda: loss)

    monkeypatch.setitem(OPTIMIZERS, "adamw", Optimizer)
    train(make_job(max_steps=3, gradient_clip=1e-3, precision=precision))
    assert norms == pytest.approx([1e-3] * 3, rel=1e-3)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_learning_rates_follow_the_schedule(
    schedule: str, make_job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []
    real = module_file.SegmentationModule.optimizer_step

    def spy(self: object, epoch: int, batch: int, optimizer: torch.optim.Optimizer, closure: object) -> None:
        real(self, epoch, batch, optimizer, closure)  # type: ignore[arg-type]
        rates.append([g["lr"] for g in optimizer.param_groups])

    monkeypatch.setattr(module_file.SegmentationModule, "optimizer_step", spy)
    train(make_job(max_steps=10, schedule=schedule, warmup=0.0))
    assert len(rates) == 10 and rates[0][0] == pytest.approx(1e-3) and rates[0][-1] == pytest.approx(5e-4)
    expected = 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * 0.9))
    assert rates[-1][0] == pytest.approx(1e-3 * expected, rel=1e-6)


def test_denormals_are_flushed_while_training_and_not_after(
    make_job: Make, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[bool] = []
    torch.set_flush_denormal(False)
    with caplog.at_level(logging.INFO, "semseg_automl"):
        train(make_job(max_steps=2), Hooks(progress=lambda _e: seen.append(flushes_denormals())))
    assert seen == [True, True] and not flushes_denormals()
    (line,) = [r.message for r in caplog.records if r.message.startswith("Waiting for pictures")]
    assert 0.0 <= float(line.split()[3]) < 100.0


def test_loggers_are_left_as_found() -> None:
    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    logging.getLogger(names[1]).setLevel(logging.DEBUG)
    before = [logging.getLogger(n).level for n in names]
    with pytest.raises(KeyError), quiet_lightning():
        assert all(logging.getLogger(n).level == logging.ERROR for n in names)
        raise KeyError
    assert [logging.getLogger(n).level for n in names] == before
    logging.getLogger(names[1]).setLevel(logging.NOTSET)

"""Training steps replayed as CUDA graphs: the plain step's losses, gradients and weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from semseg_automl.core.config import AdapterConfig, RunConfig
from semseg_automl.models.cuda_graphs import VARIABLE, FastForward
from semseg_automl.training.fit import train
from semseg_automl.training.graphs import StepGraphs
from semseg_automl.training.job import TrainJob
from semseg_automl.training.module import SegmentationModule
from semseg_automl.training.validate import autocast
from tests.gpu.networks import CLASSES, CUDA, make_network
from tests.unit.training.conftest import make_job  # noqa: F401 (a fixture)

pytestmark = pytest.mark.gpu

ADAPTERS = {
    "decoder_only": AdapterConfig(adapter="decoder_only"),
    "lora": AdapterConfig(adapter="lora", rank=4, targets=("q", "k", "v", "proj", "mlp")),
    "learned": AdapterConfig(rank=4, routing="learned"),
    "dense": AdapterConfig(rank=4, routing="dense"),
    "compat": AdapterConfig(rank=4, routing="compat"),
    "GELU": AdapterConfig(rank=4, nonlinearity="gelu"),
    "GELU, learned": AdapterConfig(rank=4, routing="learned", nonlinearity="gelu"),
    "windows": AdapterConfig(rank=4, routing="learned", gate_scope="window", window_padding="window"),
    "multi_scale_lora": AdapterConfig(adapter="multi_scale_lora", rank=4),
    "bitfit": AdapterConfig(adapter="bitfit"),
    "ssf": AdapterConfig(adapter="ssf"),
    "adapter": AdapterConfig(adapter="adapter", rank=4),
    "parallel_adapter": AdapterConfig(adapter="parallel_adapter", rank=4),
    "mona": AdapterConfig(adapter="mona", rank=4),
    "vpt": AdapterConfig(adapter="vpt", rank=4),
    "sam_adapter": AdapterConfig(adapter="sam_adapter", rank=4),
    "lst": AdapterConfig(adapter="lst"),
    "full": AdapterConfig(adapter="full"),
}


def module_of(family: str, adapter: AdapterConfig, loss: str = "auto") -> SegmentationModule:
    config = RunConfig().replace(loss=loss)
    weights = tuple(range(1, CLASSES + 1))
    return SegmentationModule(
        make_network(family, adapter).to(CUDA), config, "multiclass", lambda step: 0.5, weights
    )


def graphs_of(module: SegmentationModule) -> StepGraphs:
    """With a timer that finds every recorded step faster than the plain one."""
    network = module.segmenter
    times = iter((1.0, 0.0))
    return StepGraphs(
        module.losses,
        network.trainable_parameters(),
        network.adapters,
        timer=lambda step: (step(), next(times))[1],
    )


def batch(number: int, size: tuple[int, int] = (64, 96)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(2, 3, *size, generator=generator)
    return images.to(CUDA), torch.randint(-1, CLASSES, (2, *size), generator=generator).to(CUDA)


def gradients(
    module: SegmentationModule, losses: Callable[..., Any], number: int, precision: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total and gradients of two batches, added up as micro-batches are."""
    module.zero_grad(set_to_none=True)
    for one in (number, number + 1):
        with autocast(CUDA, precision):
            _, total = losses(*batch(one))
        (total * 0.5).backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return total.detach(), found


@pytest.mark.usefixtures("full_float32")
@pytest.mark.parametrize("family", ["sam_tiny", "sam_vit"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_replayed_step_is_the_plain_one(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the gates' noise, which a replay draws anew."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    check_replay(module_of(family, ADAPTERS[name]), "32-true", 1e-4)


def check_replay(module: SegmentationModule, precision: str, relative: float) -> None:
    graphs = graphs_of(module)
    for number in range(4):
        with autocast(CUDA, precision):
            graphs(*batch(number))
    assert len(graphs.recorder.recordings) == 1 and not graphs.recorder.refused
    with torch.no_grad():  # as an optimiser does, in place
        for parameter in module.segmenter.trainable_parameters():
            parameter += 0.01 * parameter.abs().mean()
    total, found = gradients(module, graphs, 7, precision)
    wanted_total, wanted = gradients(module, module.losses, 7, precision)
    torch.testing.assert_close(total, wanted_total, rtol=relative, atol=1e-6)
    assert found.keys() == wanted.keys()
    largest = max(float(g.abs().max()) for g in wanted.values())
    for name, value in wanted.items():
        allowed = 10 * relative * float(value.abs().max()) + relative * largest
        assert float((found[name] - value).abs().max()) <= allowed, name


@pytest.mark.parametrize("loss", ["structure", "ce_dice", "focal", "balanced_bce", "cl_dice"])
def test_losses_in_bfloat16(loss: str) -> None:
    check_replay(module_of("sam_tiny", AdapterConfig(rank=4, routing="dense"), loss), "bf16-mixed", 0.02)


def test_every_replay_draws_other_noise() -> None:
    module = module_of("sam_tiny", AdapterConfig(rank=4, routing="learned"))
    for layer in module.segmenter.adapters:
        torch.nn.init.constant_(layer.gate.noise, 1.0)  # type: ignore[union-attr, arg-type]
    graphs = graphs_of(module)
    found = [float(graphs(*batch(0))[1].detach()) for _ in range(10)]
    assert len(graphs.recorder.recordings) == 1 and len(set(found[4:])) == 6


def test_lovaszs_sorting_runs_plainly() -> None:
    """It picks out the valid pixels, whose number the host has to know."""
    module = module_of("sam_tiny", AdapterConfig(rank=4), "lovasz")
    graphs = graphs_of(module)
    found = [float(graphs(*batch(0))[1].detach()) for _ in range(6)]
    assert graphs.recorder.refused and all(map(math.isfinite, found))


def test_what_asks_the_host_runs_plainly(caplog: pytest.LogCaptureFixture) -> None:
    """A recording that fails is told once; noise, memory and steps are as before."""
    module = module_of("sam_tiny", AdapterConfig(rank=4))

    def asking(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        task, total = module.losses(images, masks)
        return task, total * (1.0 if total.item() > -1 else 2.0)

    network = module.segmenter
    graphs = StepGraphs(asking, network.trainable_parameters(), network.adapters)
    before = torch.cuda.current_stream()
    with caplog.at_level(logging.INFO, "semseg_automl"):
        found = [float(graphs(*batch(0))[1].detach()) for _ in range(8)]
    assert (
        graphs.recorder.refused and not graphs.recorder.recordings and torch.cuda.current_stream() == before
    )
    assert sum("Not recorded" in r.message for r in caplog.records) == 1 and len(set(found)) > 1
    assert torch.isfinite(torch.randn(3, device=CUDA)).all()
    assert torch.isfinite(gradients(module, graphs, 0, "32-true")[0])


def test_a_training_with_graphs_learns_what_one_without_does(
    make_job: Callable[..., TrainJob],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = make_job(accelerator="cuda", augment="none", max_steps=60, batch_size=4, small_share=0.3)
    with caplog.at_level(logging.INFO, "semseg_automl"):
        found = train(job)
    told = [r.message for r in caplog.records if "ms as a CUDA graph" in r.message]
    assert len(told) == 3  # steps on small and on whole pictures, predictions for validation
    monkeypatch.setenv(VARIABLE, "0")
    wanted = train(job)
    assert found.steps == wanted.steps == 60
    assert found.score == pytest.approx(wanted.score, abs=0.1)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["lora", "learned", "GELU", "compat", "sam_adapter", "lst"])
@pytest.mark.usefixtures("full_float32")
def test_a_replayed_prediction_is_the_plain_one(name: str, precision: str) -> None:
    """Weights may change in place between calls, and answers are not overwritten by the next."""
    network = make_network("sam_tiny", ADAPTERS[name]).to(CUDA).eval()
    forward = FastForward(network)
    times = iter((1.0, 0.0))
    forward.recorder.timer = lambda step: (step(), next(times))[1]
    with torch.no_grad(), autocast(CUDA, precision):
        forward(batch(0)[0])
    with torch.inference_mode(), autocast(CUDA, precision):
        for number in range(3):
            forward(batch(number)[0])
        assert len(forward.recorder.recordings) == 1
        for parameter in network.trainable_parameters():
            parameter += 0.01 * parameter.abs().mean()
        found = [forward(batch(number)[0]) for number in (5, 6)]
        for mine, number in zip(found, (5, 6), strict=True):
            wanted = network(batch(number)[0])
            within = (1e-4 if precision == "32-true" else 0.02) * float(wanted.abs().max())
            torch.testing.assert_close(mine, wanted, rtol=0, atol=within)
    with torch.no_grad(), autocast(CUDA, precision):  # recorded in one mode, replayed in another
        again = forward(batch(6)[0])
    torch.testing.assert_close(again, found[1].clone(), rtol=0, atol=0)

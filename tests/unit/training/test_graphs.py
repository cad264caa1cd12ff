"""What is replayed, without a GPU: the node that hands out a recording's gradients, and where it can be."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from semseg_automl.core.config import AdapterConfig, RunConfig
from semseg_automl.models.build import build_segmenter
from semseg_automl.models.checkpoints import resolve_weights
from semseg_automl.models.cuda_graphs import PLAIN_CALLS, VARIABLE, FastForward, Recorder, Recording
from semseg_automl.peft.inject import collect_balance_loss
from semseg_automl.peft.tracing import asks_no_host, is_traced, without_the_host
from semseg_automl.training import probe
from semseg_automl.training.fit import make_segmenter
from semseg_automl.training.graphs import Replay, can_record
from semseg_automl.training.job import TrainJob


def recording_of(weight: Tensor) -> Recording:
    """loss = sum (w x)^2 - y, in tensors that stay, as a graph does; a second parameter has no part in it."""
    x, y, task, total, gradient = (torch.zeros(n).squeeze() for n in (3, 3, 1, 1, 3))

    class Graph:
        def replay(self) -> None:
            task.copy_((weight.detach() * x).square().sum())
            total.copy_(task - y.sum())
            gradient.copy_(2 * weight.detach() * x**2)

    return Recording(inputs=(x, y), outputs=(task, total, (gradient, None)), graph=Graph())


def test_gradients_of_replays_add_up() -> None:
    """Each backward pass hands out tensors of its own: the next replay must not change what was given."""
    weight, bias = (torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5])) for _ in range(2))
    step = recording_of(weight)
    batches = [(torch.randn(3), torch.randn(3)) for _ in range(3)]
    wanted = torch.zeros(3)
    for x, y in batches:
        task, total = Replay.apply(step, x, y, weight, bias)
        assert float(task) == pytest.approx(float((weight.detach() * x).square().sum()))
        assert float(total.detach()) == pytest.approx(float(task - y.sum()), abs=1e-5)
        assert total.requires_grad and not task.requires_grad
        (total / 3).backward()
        wanted += 2 * weight.detach() * x**2 / 3
    assert bias.grad is None and weight.grad is not None
    torch.testing.assert_close(weight.grad, wanted)
    kept = total.clone()
    step.replay(batches[0])
    torch.testing.assert_close(total, kept)


@pytest.mark.parametrize(
    "changes, environment, possible",
    [
        ({}, "", True),
        ({"precision": "bf16-mixed"}, "1", True),
        ({"precision": "16-mixed"}, "1", False),
        ({"accelerator": "cpu"}, "1", False),
        ({"accelerator": "mps"}, "1", False),
        ({"gradient_checkpointing": True}, "1", False),
        ({"head": "mask_classification"}, "1", False),
        ({}, "0", False),
    ],
)
def test_where_steps_can_be_recorded(
    make_job: Callable[..., TrainJob],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    environment: str,
    possible: bool,
) -> None:
    job = make_job(**{"accelerator": "cuda", **changes})
    if environment:
        monkeypatch.setenv(VARIABLE, environment)
    segmenter = make_segmenter(job)
    assert can_record(job, segmenter, 1) is possible
    assert not can_record(job, segmenter, 2)
    segmenter.cached_lower = object()  # type: ignore[assignment]
    assert not can_record(job, segmenter, 1)


def test_the_probes_warm_up_goes_on_until_steps_are_replayed(
    make_job: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what is measured is what training does; past the deadline plain steps must do."""
    asked: list[int] = []
    monkeypatch.setattr(probe, "can_record", lambda *_given: True)
    monkeypatch.setattr(Recorder, "find", lambda _self, inputs: asked.append(len(inputs)))
    found = probe.time_steps(make_job(), (64, 64), 1, ("32-true",), time.perf_counter() + 60.0)
    assert found["32-true"].train > 0 and asked == [2] * (PLAIN_CALLS + 4)  # and three timed rounds
    asked.clear()
    assert probe.time_steps(make_job(), (64, 64), 1, ("32-true",), 0.0) and asked == [2]


@pytest.mark.parametrize(
    "adapter",
    [{"routing": "compat"}, {"routing": "learned", "nonlinearity": "gelu"}, {"routing": "learned"}, {}],
)
def test_what_asks_no_host_computes_the_same(adapter: dict[str, str]) -> None:
    """Experts that nobody kept run too, with a gate of 0: outputs, losses and gradients stay."""
    config = RunConfig(adapter=AdapterConfig(rank=4, **adapter)).replace(backbone="sam_tiny")  # type: ignore[arg-type]
    net = build_segmenter(config, 2, weights=resolve_weights("sam_tiny"), seed=0).train()
    for parameter in net.adapter_parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))

    def step() -> list[Tensor]:
        torch.manual_seed(0)
        logits = net(images)
        total = logits.square().mean() + collect_balance_loss(net.adapters)
        return [logits.detach(), *torch.autograd.grad(total, net.trainable_parameters(), allow_unused=True)]

    wanted = step()
    with without_the_host():
        assert asks_no_host() and not is_traced()
        found = step()
    assert not asks_no_host()
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_elsewhere_than_on_cuda_the_network_itself_answers() -> None:
    calls: list[Tensor] = []
    forward = FastForward(lambda images: (calls.append(images), images * 2)[1])
    with torch.inference_mode():
        for _ in range(6):
            assert float(forward(torch.ones(1, 3, 4, 4)).sum()) == 96
    assert len(calls) == 6 and not forward.recorder.recordings

"""Calls on a GPU that are recorded once per shape as a CUDA graph and replayed with one call from the host.

A pass through a small network launches thousands of kernels, and a GPU runs each sooner than Python
launches the next. A recording launches them all at once: the same kernels with the same numbers; random
ones are drawn anew in each replay.

What a recording costs is memory: what lies between its kernels stays allocated. So there is none where less
is free than a pass takes, and none where the recorded pass (which may not ask the host: mixtures of experts
with a GELU run all experts on all maps then) is not faster. ``SEMSEG_AUTOML_CUDA_GRAPHS=0`` in the
environment turns recordings off.

Source: PyTorch's notes "CUDA semantics", section "CUDA Graphs" (warm-up on a side stream, static inputs).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from semseg_automl.core.log import get_logger
from semseg_automl.peft.tracing import without_the_host

_LOG = get_logger("models")
PLAIN_CALLS = 3  # of a shape before it is recorded: kernels are loaded and memory is measured
_MOST_SHAPES = 4
_ROOM = 1.5  # free memory over the peak of what ran before, at least
VARIABLE = "SEMSEG_AUTOML_CUDA_GRAPHS"


def wanted() -> bool:
    """Whether the environment allows recordings."""
    return os.environ.get(VARIABLE, "1") != "0"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Tensors that lie where the graph reads and writes them; a replay overwrites ``outputs``."""

    inputs: tuple[Tensor, ...]
    outputs: Any
    graph: Any

    def replay(self, inputs: Sequence[Tensor]) -> None:
        """Run on other inputs of the same shapes."""
        with torch.cuda.device_of(self.inputs[0]):
            for place, value in zip(self.inputs, inputs, strict=True):
                place.copy_(value)
            self.graph.replay()


class Recorder:
    """Recordings of one function of tensors, one per shape and precision.

    Parameters
    ----------
    call : the function; what it leaves behind elsewhere is that of the latest recording.
    forget : called around a recording; drops what holds on to an earlier pass's autograd graph.
    timer : seconds that a call takes on the device.

    Attributes
    ----------
    recordings : those that are replayed.
    refused : nothing (more) is recorded, since it failed or did not pay.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        *,
        forget: Callable[[], None] = lambda: None,
        timer: Callable[[Callable[[], Any]], float] | None = None,
    ) -> None:
        self.call = call
        self.forget = forget
        self.timer = timer or seconds_of
        self.recordings: dict[Any, Recording] = {}
        self.refused = False
        self._seen: dict[Any, int] = {}

    def find(self, inputs: Sequence[Tensor]) -> Recording | None:
        """The recording for these inputs, made where it is time; None: call the function itself."""
        precision = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = (precision, *((tuple(x.shape), x.dtype) for x in inputs))
        if key not in self.recordings:
            with torch.cuda.device_of(inputs[0]):  # streams and memory are those of the current device
                if self._is_time(key):
                    self._try(key, inputs)
        return self.recordings.get(key)

    def _is_time(self, key: Any) -> bool:
        self._seen[key] = self._seen.get(key, 0) + 1
        if self.refused or self._seen[key] <= PLAIN_CALLS or len(self.recordings) >= _MOST_SHAPES:
            return False
        free, _ = torch.cuda.mem_get_info()
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return free + kept > _ROOM * torch.cuda.max_memory_allocated()

    def _try(self, key: Any, inputs: Sequence[Tensor]) -> None:
        """Record; keep it if it is faster than the plain call."""
        try:
            plain = self.timer(lambda: self.call(*inputs))
            self.forget()
            found = record(self.call, inputs, self.forget)
            replayed = self.timer(lambda: found.replay(inputs))
        except RuntimeError as error:  # torch's errors of memory and of calls that can't be recorded
            self.refused = True
            self.recordings.clear()  # they may draw from the generator that a failed recording spoils
            _LOG.info("Not recorded as a CUDA graph: %s", str(error).splitlines()[0])
            torch.cuda.empty_cache()
            return
        finally:
            self.forget()
        self.refused = replayed >= plain
        if not self.refused:
            self.recordings[key] = found
        shape = " x ".join(map(str, inputs[0].shape))
        told = (shape, 1e3 * replayed, 1e3 * plain)
        _LOG.info("A pass of %s takes %.1f ms as a CUDA graph, %.1f ms without.", *told)


def record(call: Callable[..., Any], inputs: Sequence[Tensor], forget: Callable[[], None]) -> Recording:
    """Record a call on copies of ``inputs``, after two calls that warm up.

    Raises RuntimeError (or one of torch's that are) where memory is short or the host has to wait for
    the device; stream and random numbers then go on as if nothing had been.
    """
    with torch.inference_mode(False):  # so that later calls may write into them in any mode
        inputs = tuple(x.clone() for x in inputs)
    main, side, graph = torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    generator = torch.cuda.default_generators[main.device_index]
    noise = generator.clone_state()
    torch.clear_autocast_cache()  # it holds on to nodes of the main stream
    with without_the_host(), plain_casts():
        side.wait_stream(main)
        with torch.cuda.stream(side):
            call(*inputs)
            with waits_forbidden():
                call(*inputs)
        main.wait_stream(side)
        forget()
        try:  # other threads (one pins batches) may go on calling CUDA
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                outputs = call(*inputs)
        except RuntimeError:
            torch.cuda.set_stream(main)  # a recording that failed leaves its own stream behind,
            generator.graphsafe_set_state(noise)  # and a generator that waits for it to go on
            raise
    return Recording(inputs=inputs, outputs=outputs, graph=graph)


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of a call's second run, on the current device."""
    call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - started


@contextlib.contextmanager
def waits_forbidden() -> Iterator[None]:
    """An error where the host waits for the device, which a recording can't do, and which would spoil it."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it doesn't see every wait; the recording will
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def plain_casts() -> torch.autocast:
    """The autocast that is on, without its cache: a recording may not depend on casts made before it."""
    return torch.autocast(
        "cuda",
        dtype=torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        cache_enabled=False,
    )


class FastForward:
    """``network(images)`` without gradients, replayed on CUDA where that pays; the same numbers elsewhere.

    The network's tensors may change in place between calls, but must stay where they are.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self.network = network
        self.recorder = Recorder(network)
        self._lock = threading.Lock()  # threads that predict share the recording's tensors

    def __call__(self, images: Tensor) -> Tensor:
        """As the network; the answer is the caller's own."""
        if not images.is_cuda or torch.is_grad_enabled() or not wanted():
            return self.network(images)
        with self._lock:
            found = self.recorder.find([images])
            if found is not None:
                found.replay([images])
                answer: Tensor = found.outputs.clone()
                return answer
        return self.network(images)

"""Whether a forward pass is recorded: by an exporter, or as a CUDA graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

_NO_HOST: ContextVar[bool] = ContextVar("no_host", default=False)


def is_traced() -> bool:
    """True while ``torch.jit.trace``, an ONNX export, ``torch.export`` or ``torch.compile`` records the pass.

    Such a recording keeps one path through every ``if``, and hand-written autograd functions are opaque
    to it. Where the fast path of a module depends on a size, or is such a function, it takes plain
    operations then that are right for every size.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def asks_no_host() -> bool:
    """True where what runs may not depend on values: while traced, and within :func:`without_the_host`."""
    return _NO_HOST.get() or is_traced()


@contextlib.contextmanager
def without_the_host() -> Iterator[None]:
    """Let modules launch the same kernels whatever the tensors hold, as a CUDA graph needs it."""
    token = _NO_HOST.set(True)
    try:
        yield
    finally:
        _NO_HOST.reset(token)

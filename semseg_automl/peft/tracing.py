"""Whether an exporter watches a forward pass."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """True while ``torch.jit.trace``, an ONNX export, ``torch.export`` or ``torch.compile`` records the pass.

    Such a recording keeps one path through every ``if``, and hand-written autograd functions are opaque
    to it. Where the fast path of a module depends on a size, or is such a function, it takes plain
    operations then that are right for every size.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()

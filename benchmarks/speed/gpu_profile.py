"""What a call on a CUDA device spends its time on: kernels, operators, and how long the device is idle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

TOP = 15
_ANNOTATIONS = ("ProfilerStep", "Optimizer.", "## ")


def profile(step: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Profile one call that ends synchronised and takes ``seconds`` without a profiler.

    Returns
    -------
    dict
        ``launches``; ``busy`` (share of ``seconds`` in which any kernel or copy ran, each moment counted
        once); the ``TOP`` kernels and operators by time on the device: name, calls, milliseconds.
    """
    step()
    with torch_profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step()
    kernels = [e for e in found.events() if e.device_type == DeviceType.CUDA and not is_annotation(e)]
    spans = [(e.time_range.start, e.time_range.end) for e in kernels]
    calls: Counter[str] = Counter()
    took: Counter[str] = Counter()
    for event in kernels:
        calls[event.name] += 1
        took[event.name] += event.time_range.end - event.time_range.start
    averages = [a for a in found.key_averages() if a.device_type == DeviceType.CPU]
    averages.sort(key=lambda a: a.self_device_time_total, reverse=True)
    return {
        "launches": len(kernels),
        "step_ms": round(1e3 * seconds, 3),
        "busy_ms": round(covered(spans) / 1e3, 3),
        "busy": round(covered(spans) / 1e6 / seconds, 3),
        "kernels": [row(name, calls[name], us) for name, us in took.most_common(TOP)],
        "operators": [row(a.key, a.count, a.self_device_time_total) for a in averages[:TOP]],
    }


def is_annotation(event: Any) -> bool:
    """Whether an event on the device is a label around kernels instead of one."""
    return bool(getattr(event, "is_user_annotation", False)) or event.name.startswith(_ANNOTATIONS)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def row(name: str, calls: int, microseconds: float) -> dict[str, Any]:
    """One line of a table."""
    return {"name": name[:120], "calls": calls, "ms": round(microseconds / 1e3, 3)}

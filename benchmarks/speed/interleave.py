"""Timing variants in turn within one process, and what a result's JSON says about where it was made."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quality"))
from run import circumstances

RESULTS = Path(__file__).resolve().parent / "results"


def interleaved(
    variants: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of every call; the variants take turns, each round beginning with another one."""
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            variants[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, and first and third quartile, in milliseconds."""
    low, middle, high = (round(1e3 * q, 3) for q in statistics.quantiles(seconds, n=4))
    return {"median_ms": middle, "q1_ms": low, "q3_ms": high}


def ratio(ours: list[float], twin: list[float]) -> float:
    """Median over rounds of ours / twin, so that a slow spell of the machine meets both."""
    return round(statistics.median(a / b for a, b in zip(ours, twin, strict=True)), 3)


def write(name: str, result: dict[str, Any], path: Path | None = None) -> None:
    """Write results/NAME.json (or ``path``) and print it."""
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**result, **circumstances()}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)

"""Steps a second of two training processes with half of the cores each, against one with all of them.

    python benchmarks/search/workers.py [--sides 320 448] [--rounds 3] [--seconds 20]

Behind the rule in ``semseg_automl/search/workers.py``: more processes only where they promise 1.3 times the
steps, each measured alone. For each side and round three measurements take turns: one process with all
cores; one with half of them, alone; two with half of them at the same time. ``promised`` is twice the
second over the first, ``gained`` the sum of the third over the first. Bar: where the rule says two,
``gained`` is above 1. Writes results/workers.json after each round. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from record import load, store

BATCH = 4


def steps_a_second(side: int, threads: int, seconds: float, start: float) -> float:
    """Training steps of mobile_sam with Conv-LoRA, from ``start`` (``time.time()``) on."""
    import torch
    from torch.nn import functional as F

    from semseg_automl.core.config import RunConfig
    from semseg_automl.models.build import build_segmenter
    from semseg_automl.models.checkpoints import resolve_weights
    from semseg_automl.models.devices import prepare_cpu

    prepare_cpu(threads)
    config = RunConfig().replace(backbone="mobile_sam")
    net = build_segmenter(config, 1, weights=resolve_weights("mobile_sam"), seed=0).train()
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-4)
    images = torch.randn(BATCH, 3, side, side)
    masks = (torch.rand(BATCH, 1, side, side) > 0.5).float()
    for warm in (True, False):
        count, begun = 0, time.time()
        until = begun + 2.0 if warm else start + seconds
        while time.time() < until or not count:
            logits = F.interpolate(net(images), size=(side, side), mode="bilinear", align_corners=False)
            F.binary_cross_entropy_with_logits(logits, masks).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            count += 1
        if warm:
            time.sleep(max(0.0, start - time.time()))
            begun = time.time()
    return count / (time.time() - begun)


def together(side: int, threads: int, processes: int, seconds: float, lead: float) -> list[float]:
    """Steps a second of each of ``processes`` that begin at the same time, ``lead`` seconds from now."""
    given = {"side": side, "threads": threads, "seconds": seconds, "start": time.time() + lead}
    line = [sys.executable, __file__, "--one", json.dumps(given)]
    started = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    found = []
    for process in started:
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"exit status {process.returncode}")
        found.append(float(out.splitlines()[-1]))
    return found


def measured(side: int, cores: int, seconds: float, lead: float) -> dict[str, Any]:
    """One round."""
    half = max(1, cores // 2)
    all_cores, alone = together(side, cores, 1, seconds, lead), together(side, half, 1, seconds, lead)
    both = together(side, half, 2, seconds, lead)
    return {
        "one_process": round(all_cores[0], 4),
        "half_alone": round(alone[0], 4),
        "two_processes": [round(value, 4) for value in both],
        "promised": round(2 * alone[0] / all_cores[0], 4),
        "gained": round(sum(both) / all_cores[0], 4),
    }


def main() -> int:
    """Run what is missing; 1 if the bar is missed."""
    from semseg_automl.core.hardware import usable_cores
    from semseg_automl.search.workers import LEAST_CORES, LEAST_GAIN

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", nargs="*", type=int, default=[320, 448])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--lead", type=float, default=30.0, help="seconds for a process to get ready")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(steps_a_second(**arguments.one))
        return 0
    cores, missed = usable_cores(), 0
    for side in arguments.sides:
        rounds = []
        for number in range(arguments.rounds):
            content = load("workers")
            key = f"{side} px, round {number}"
            if key not in content["runs"]:
                content["runs"][key] = measured(side, cores, arguments.seconds, arguments.lead)
                store("workers", content)
            rounds.append(content["runs"][key])
            print(key, json.dumps(rounds[-1]))
        promised, gained = (statistics.median(r[name] for r in rounds) for name in ("promised", "gained"))
        says_two = cores >= LEAST_CORES and promised >= LEAST_GAIN
        print(f"{side} px: promised {promised:.2f}, gained {gained:.2f}, the rule says {1 + says_two}")
        missed += says_two and gained <= 1.0
    print("bars missed:", missed)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

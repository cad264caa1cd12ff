"""How far ``fit`` runs over its time limit: at most 5 % + 5 s, always with a usable model.

    python benchmarks/search/overrun.py [--limits 1 5 30 120] [--sets NAME ...] [--workers 1 2]

Writes results/overrun.json; what is there already is not run again. At 600 s the share of the time
in training and validation steps is judged, too (at least 90 %).
"""

from __future__ import annotations

import argparse
import json
import sys

from record import fitted, run_once

SETS = ("leaf_disease", "polyp_clinicdb", "camvid")
LIMITS = (1.0, 5.0, 30.0, 120.0)


def allowed(limit: float) -> float:
    """Seconds that a fit may take."""
    return 1.05 * limit + 5.0


def main() -> int:
    """Run what is missing; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limits", nargs="*", type=float, default=[*LIMITS, 600.0])
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(fitted(arguments.one)))
        return 0
    missed = 0
    for limit in arguments.limits:
        for name in arguments.sets[:1] if limit >= 600 else arguments.sets:
            for workers in arguments.workers:
                fit = {} if workers == 1 else {"hyperparameter_tune_kwargs": {"num_workers": workers}}
                spec = {"set": name, "limit": limit, "seed": 0, "threads": 2, "fit": fit, "test": False}
                key = f"{name} {limit:g} s" + (f", {workers} workers" if workers > 1 else "")
                found = run_once("overrun", key, __file__, spec)
                missed += found["seconds"] > allowed(limit) or not found["usable"]
                missed += limit >= 600 and found["in_steps"] < 0.90
    print("bars missed:", missed)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

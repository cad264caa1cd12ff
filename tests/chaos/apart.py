"""Run a harness that judges itself, in a process of its own, and let it have no failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def figures_of(module: str, count: int, seed: int, timeout: float) -> dict[str, Any]:
    """What ``python -m MODULE COUNT SEED`` prints as JSON; its ``failures`` must be empty."""
    done = subprocess.run(
        [sys.executable, "-m", module, str(count), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert not found["failures"], "\n".join(found["failures"])
    return dict(found)

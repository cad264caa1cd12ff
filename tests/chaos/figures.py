"""The figures of ``make chaos`` as JSON, where $SEMSEG_AUTOML_CHAOS_RESULTS names a folder for them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = "SEMSEG_AUTOML_CHAOS_RESULTS"
_PACKAGES = ("torch", "lightning", "numpy", "optuna", "safetensors")


def keep(name: str, figures: Mapping[str, Any]) -> None:
    """Write ``name.json``: the figures with the commit, versions and system that they are of."""
    folder = os.environ.get(RESULTS)
    if folder is None:
        return
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {package: version(package) for package in _PACKAGES},
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps({**figures, **facts}, indent=1) + "\n"
    Path(folder, f"{name}.json").write_text(text, encoding="utf-8")


def _commit() -> str:
    """The commit, and whether files under version control were changed since."""
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or "unknown"

"""From an empty folder to a picture of predictions with nothing but the README, commands counted.

It clones this repository and installs into the clone as a new user would, so it needs git, make, a package
index and the backbone's weights ($SEMSEG_AUTOML_WEIGHTS, the cache, or a download). An environment variable
``TORCH`` is what pip installs for torch, as for make.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg_automl.core.errors import WeightsError
from semseg_automl.models.checkpoints import resolve_weights
from tests.integration.quick import ROOT

MOST = 5
LEFT_OUT = ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_ADDOPTS", "OMP_NUM_THREADS")
HOUR = 3600.0


def commands_of_the_readme() -> list[str]:
    """What the first screen tells to type: a fresh clone, and the command that ends with a picture."""
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    assert "on a fresh clone" in first_screen
    lines = re.findall(r"^    (\S.*)$", first_screen.split("on a fresh clone")[1], flags=re.MULTILINE)
    last = next(i for i, line in enumerate(lines) if "picture" in line)
    told = [line.split("#")[0].strip() for line in lines[: last + 1]]
    return [f"git clone {ROOT.as_uri()} semseg-automl", "cd semseg-automl", *told]


def test_the_readme_needs_few_commands() -> None:
    commands = commands_of_the_readme()
    assert len(commands) <= MOST and commands[-1] == "make demo"


@pytest.mark.slow
def test_from_an_empty_folder_to_a_picture(tmp_path: Path) -> None:
    missing = [tool for tool in ("git", "make") if shutil.which(tool) is None]
    if missing or not (ROOT / ".git").exists():
        pytest.skip(f"needs a git clone, git and make; missing: {missing or 'the clone'}")
    try:
        resolve_weights("mobile_sam")
    except WeightsError as error:
        pytest.skip(f"no weights: {error}")
    commands = commands_of_the_readme()
    environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    done = subprocess.run(
        ["sh", "-ec", "\n".join(commands)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HOUR,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    said = dict(re.findall(r"^(model|picture): +(.+)$", done.stdout, flags=re.MULTILINE))
    assert Path(said["picture"]).is_relative_to(tmp_path)
    with Image.open(said["picture"]) as picture:
        drawn = np.asarray(picture.convert("RGB"))
    assert min(drawn.shape[:2]) > 200 and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 1000
    summary = json.loads(Path(said["model"], "fit_summary.json").read_text())
    assert "mean_iou" in done.stdout and summary["summary"]["best_model"]

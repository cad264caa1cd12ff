"""In a real Jupyter kernel: one bar, no noise of the libraries below."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.integration.quick import ROOT, SMALL

pytest.importorskip("ipykernel", reason="ipykernel is in the extra [dev]")
manager = pytest.importorskip("jupyter_client.manager", reason="jupyter_client comes with ipykernel")
TIMEOUT = 120.0


@pytest.fixture
def client(textures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A kernel in a folder with train.csv, and a client of it."""
    textures.to_csv(tmp_path / "train.csv", index=False)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    kernel, client = manager.start_new_kernel(cwd=str(tmp_path), env=environment)
    yield client
    client.stop_channels()
    kernel.shutdown_kernel(now=True)


def run(client: Any, code: str) -> list[dict[str, Any]]:
    """Execute a cell and return its outputs."""
    message = client.execute(code)
    outputs, end = [], time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        found = client.get_iopub_msg(timeout=TIMEOUT)
        if found["parent_header"].get("msg_id") != message:
            continue
        kind, content = found["msg_type"], found["content"]
        if kind == "status" and content["execution_state"] == "idle":
            return outputs
        if kind in ("stream", "display_data", "update_display_data", "execute_result", "error"):
            outputs.append({"kind": kind, **content})
        elif kind in ("comm_open", "comm_msg"):
            outputs.append({"kind": kind, "data": content["data"]})
    raise AssertionError(f"the cell did not end in {TIMEOUT} s: {outputs[-3:]}")


def test_a_fit_shows_one_bar_and_its_plan(client: Any) -> None:
    outputs = run(
        client,
        "from semseg_automl import SemanticSegmentor\n"
        "seg = SemanticSegmentor(backbone='sam_tiny', path='m').fit('train.csv', time_limit=60,\n"
        f"    hyperparameters={SMALL!r}, hyperparameter_tune_kwargs=dict(num_trials=2))",
    )
    assert not [o for o in outputs if o["kind"] == "error"], outputs
    text = "".join(o["text"] for o in outputs if o["kind"] == "stream")
    widgets = [o for o in outputs if "FloatProgress" in str(o) and o["kind"] == "comm_open"]
    bars = len(widgets) if widgets else text.count("plan   0%")
    assert bars == 1
    assert "Plan: " in text and "Best model: " in text
    for noise in ("Warning", "GPU available", "[I 20", "rank_zero", "IProgress"):
        assert noise not in text
    (shown,) = [o for o in run(client, "seg") if o["kind"] == "execute_result"]
    assert "mean_iou" in shown["data"]["text/html"]
    pictures = run(client, "%matplotlib inline\nseg.plot_search();")
    assert sum("image/png" in o.get("data", {}) for o in pictures) == 1

"""In a real Jupyter kernel: one bar, no noise of the libraries below, an interrupt keeps the best model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.integration.quick import ROOT, SMALL

pytest.importorskip("ipykernel", reason="ipykernel is in the extra [dev]")
manager = pytest.importorskip("jupyter_client.manager", reason="jupyter_client comes with ipykernel")
TIMEOUT = 240.0


@pytest.fixture
def client(textures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A kernel in a folder with train.csv, and a client of it."""
    textures.to_csv(tmp_path / "train.csv", index=False)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    kernel, client = manager.start_new_kernel(cwd=str(tmp_path), env=environment)
    client.interrupt = kernel.interrupt_kernel  # what a notebook's stop button does
    yield client
    client.stop_channels()
    kernel.shutdown_kernel(now=True)


def run(
    client: Any, code: str, seen: Callable[[dict[str, Any]], None] = lambda _output: None
) -> list[dict[str, Any]]:
    """Execute a cell and return its outputs; ``seen`` is called with each as it comes."""
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
        else:
            continue
        seen(outputs[-1])
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


def test_an_interrupt_keeps_the_best_model(client: Any, tmp_path: Path) -> None:
    """The time limit is far beyond the test's own: that the cell ends at all is the interrupt's doing."""
    pressed: list[str] = []

    def press(output: dict[str, Any]) -> None:
        shown = str(output).replace(r"\u2007", " ")  # the widget's spaces are of a digit's width
        if not pressed and "best 0." in shown:  # a validation is done
            pressed.append(str(output))
            client.interrupt()

    cell = "seg = SemanticSegmentor(backbone='sam_tiny', path='m').fit('train.csv', time_limit=3600)"
    outputs = run(client, f"from semseg_automl import SemanticSegmentor\n{cell}", press)
    text = "".join(o["text"] for o in outputs if o["kind"] == "stream")
    assert pressed, text
    assert not [o for o in outputs if o["kind"] == "error"], outputs
    assert f"Interrupted: the best model so far is kept in {tmp_path / 'm'}" in text
    assert "Traceback" not in text
    look = "float(seg.load('m').best_score_), float(seg.best_score_), len(seg.predict('train.csv'))"
    (shown,) = [o for o in run(client, look) if o["kind"] == "execute_result"]
    again, best, count = (float(x) for x in shown["data"]["text/plain"].strip("()").split(","))
    assert again == best > 0 and count == 12

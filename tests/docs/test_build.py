"""Sphinx builds every page without a warning; ``make docs`` runs the tutorials too, which takes minutes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.quick import ROOT

pytest.importorskip("sphinx", reason="sphinx is in the extra [docs]")
NEEDED = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    source = tmp_path / "docs"  # a copy: Sphinx-Gallery writes beside its sources
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("_build", "gallery"))
    for name in NEEDED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html", "-D", "plot_gallery=0"]
    done = subprocess.run(
        [*command, str(source), str(tmp_path / "html")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html" / "reference" / "estimator.html").read_text(encoding="utf-8")
    assert all(f"SemanticSegmentor.{verb}" in page for verb in ("fit", "predict", "evaluate", "export_onnx"))

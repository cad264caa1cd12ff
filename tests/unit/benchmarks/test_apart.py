"""Processes of benchmarks: how they ended is told."""

from __future__ import annotations

import os
import sys

import pytest

from benchmarks.apart import run_apart


def test_the_end_of_a_process_is_told() -> None:
    assert run_apart([sys.executable, "-c", ""]) == (0, "exit code 0")
    said = "import sys; print('first', file=sys.stderr); sys.exit('no memory')"
    assert run_apart([sys.executable, "-c", said]) == (1, "no memory")


@pytest.mark.skipif(os.name == "nt", reason="processes end by signals on POSIX only")
def test_a_killed_process_has_no_result() -> None:
    assert run_apart([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) is None

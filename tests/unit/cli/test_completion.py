"""The completion script knows every verb and option, and the shell takes it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from semseg_automl.cli import VERBS, main

pytest.importorskip("shtab", reason="shtab is in the extra [completion]")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*VERBS, "time-limit", "per-class"):
        assert word in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["eva"], ["evaluate"]),
        (["fit", "--tim"], ["--time-limit"]),
        (["completion", ""], ["bash", "zsh", "tcsh"]),
        (["evaluate", "mod"], ["models"]),
    ],
)
def test_bash_completes(
    typed: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "complete.bash"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    (tmp_path / "models").mkdir()
    words = ["semseg-automl", *typed]
    code = f"""
        source complete.bash
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
        COMP_CWORD={len(typed)} COMP_LINE='{" ".join(words)}' COMP_POINT={len(" ".join(words))}
        complete_it=$(complete -p semseg-automl | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $complete_it semseg-automl '{words[-1]}' '{words[-2]}' 2>/dev/null
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert set(expected) <= {line.strip().rstrip("/") for line in done.stdout.splitlines()}, done

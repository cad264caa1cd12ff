"""README and docs say what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from semseg_automl.cli import VERBS
from semseg_automl.core.config import RunConfig
from semseg_automl.estimator.presets import PRESETS
from semseg_automl.models.weights_registry import BACKBONES

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _section(title: str) -> str:
    match = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)
    assert match, f"README.md has no section {title}"
    return match.group(1)


def test_the_hyperparameter_table_is_the_configuration() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", _section("Hyperparameters"), re.M)
    assert rows == [(name, repr(default)) for name, default in RunConfig().flat().items()]


def test_readme_names_every_verb_preset_and_backbone() -> None:
    for name in (*VERBS, *PRESETS):
        assert re.search(rf"\b{name}\b", README), name
    assert all(f"`{name}`" in _section("Backbones") for name in BACKBONES)


def test_the_first_screen_holds_three_lines_and_two_commands() -> None:
    first = "\n".join(README.splitlines()[:24])
    assert all(text in first for text in (".fit(", ".predict(", "make demo", "make test"))


def test_presets_page_is_current() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "make_presets.py"))
    current = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    assert current == page["text"](), "run: python docs/make_presets.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def test_results_in_readme_are_the_benchmarks() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_results.py"))
    current = (ROOT / "README.md").read_text(encoding="utf-8")
    assert current == made["page"](), "run: python docs/make_results.py"

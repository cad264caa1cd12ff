"""The code in the pages runs, with the backbone for tests and one epoch; what ``>>>`` prints is right."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from semseg_automl.data.datasets import make_textures
from tests.integration.quick import NO_SEARCH, SMALL, tiny

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [DOCS / "start.md", *sorted((DOCS / "how_to").glob("*.md"))]
CODE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, textures: pd.DataFrame) -> SemanticSegmentor:
    """What pages call ``seg`` before they fit one."""
    return tiny(tmp_path_factory.mktemp("pages") / "model").fit(textures, **NO_SEARCH)


@pytest.fixture
def small_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a page asks for: backbone for tests, small pictures, one epoch, no search unless counted.

    Limits are ten seconds at most: some pages count trials that would take a minute.
    """
    fit = SemanticSegmentor.fit

    def small(self: SemanticSegmentor, *data: Any, **arguments: Any) -> SemanticSegmentor:
        asked = dict(arguments.pop("hyperparameters", None) or {})
        tune = arguments.pop("hyperparameter_tune_kwargs", None)
        if arguments.get("time_limit") is not None:
            arguments["time_limit"] = min(10.0, arguments["time_limit"])
        self.set_params(backbone="sam_tiny", verbosity=0)
        return fit(self, *data, hyperparameters=SMALL | asked, hyperparameter_tune_kwargs=tune, **arguments)

    monkeypatch.setattr(SemanticSegmentor, "fit", small)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A current folder with ``images`` and ``masks`` of twelve pictures, and their table."""
    monkeypatch.chdir(tmp_path)
    return make_textures(tmp_path, n=12, size=(64, 80), n_classes=3, seed=0)


def _name(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text("utf-8")], ids=_name)
def test_the_code_of_a_page_runs(
    page: Path, small_fits: None, workplace: pd.DataFrame, fitted: SemanticSegmentor
) -> None:
    names: dict[str, Any] = {"SemanticSegmentor": SemanticSegmentor, "seg": fitted}
    names |= {"train": workplace[:8], "test": workplace[8:]}
    text = page.read_text(encoding="utf-8")
    for match in CODE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        exec(compile("\n" * line + match[1], str(page), "exec"), names)


@pytest.mark.parametrize(
    "page", [p for p in sorted(DOCS.rglob("*.md")) if ">>>" in p.read_text("utf-8")], ids=_name
)
def test_what_a_page_prints_is_true(page: Path) -> None:
    failed, tried = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert tried and not failed


def test_every_page_is_reached() -> None:
    """From the index, through the tables of contents."""
    seen, todo = set(), ["index"]
    while todo:
        page = todo.pop()
        seen.add(page)
        text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
        for block in re.findall(r"```\{toctree\}\n(.*?)```", text, re.S):
            for name in (line for line in block.splitlines() if line and not line.startswith(":")):
                found = (DOCS / page).parent.joinpath(name).resolve().relative_to(DOCS).as_posix()
                todo += [] if found in seen or found.startswith("gallery/") else [found]
    pages = {p.relative_to(DOCS).with_suffix("").as_posix() for p in DOCS.rglob("*.md")}
    assert pages - seen == set()


def test_every_public_name_has_its_entry() -> None:
    import semseg_automl
    from semseg_automl.search import space

    reference = "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.md"))
    for name in (*semseg_automl.__all__, *space.__all__):
        assert name == "Space" or name == "__version__" or name in reference, name

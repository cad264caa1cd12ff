"""The report: one page that holds everything, escaped, small, and shown by a browser without a complaint."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import ArtifactError, ConfigError, DataError
from semseg_automl.estimator import report
from semseg_automl.estimator._errors import NotFittedError
from semseg_automl.estimator.displays import ErrorGalleryDisplay
from tests.integration.quick import NO_SEARCH, tiny

BROWSERS = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)
HTML = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture
def browser() -> Iterator[Any]:
    """A headless Chromium, one of the system's or playwright's own."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra [dev]")
    installed = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync.sync_playwright() as playwright:
        if installed is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium: install one, or run `playwright install chromium-headless-shell`")
        shown = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        yield shown
        shown.close()


def parse(page: Path) -> Any:
    """The page as a tree; html5lib's strict mode raises on anything that is no valid HTML 5."""
    return html5lib.HTMLParser(strict=True).parse(page.read_text(encoding="utf-8"))


def test_everything_is_in_the_page(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    page = multiclass.report(tmp_path / "report.html", textures, n=5)
    assert page == tmp_path / "report.html" and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    tree, text = parse(page), page.read_text(encoding="utf-8")
    titles = [h.text for h in tree.iter(f"{HTML}h2")]
    assert titles == ["Model", "Plan and time", "Models", "Scores on 12 pictures", "Confusion", "Pictures"]
    words = " ".join("".join(tree.itertext()).split())
    for name, value in multiclass.evaluate(textures).items():
        assert f"{name}{value:.4f}" in words.replace(" ", "")
    for row in multiclass.evaluate(textures, per_class=True).itertuples():
        assert f"{row.iou:.4f}" in words
    for told in (*multiclass.fit_summary(show=False)["plan"], "majority_class", *multiclass.classes_):
        assert told in words
    scores = multiclass.evaluate(textures, ["mean_iou"], per_image=True)["mean_iou"].sort_values()
    captions = [c.text for c in tree.iter(f"{HTML}figcaption")]
    assert captions[:3] == [f"{k}\nmean_iou {v:.3f}" for k, v in scores[:3].items()]
    assert captions[4] == f"{scores.index[-1]}\nmean_iou {scores.iloc[-1]:.3f}", "the best is the last"
    images = list(tree.iter(f"{HTML}img"))
    assert len(images) == 3 + 5 * 4 and all(i.get("alt") and i.get("src").startswith("data:") for i in images)
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", re.sub(r"base64,[^\"]*", "", text))


def test_without_data_it_tells_of_the_fit(multiclass: SemanticSegmentor, tmp_path: Path) -> None:
    tree = parse(multiclass.report(str(tmp_path / "report.html")))
    assert [h.text for h in tree.iter(f"{HTML}h2")] == ["Model", "Plan and time", "Models"]


def test_masks_given_apart_are_the_same(
    binary: SemanticSegmentor, binary_textures: pd.DataFrame, tmp_path: Path
) -> None:
    pages = [
        binary.report(tmp_path / "a.html", binary_textures, n=2),
        binary.report(tmp_path / "b.html", binary_textures[["image"]], binary_textures["label"], n=2),
    ]
    a, b = (re.sub("<footer>.*", "", p.read_text(encoding="utf-8")) for p in pages)
    assert a == b and "iou" in a


def test_masks_given_apart_to_a_model_of_a_column_for_each_class(
    textures: pd.DataFrame, tmp_path: Path
) -> None:
    """Two columns with a class each; the report's masks come as ``y``, one a picture."""
    masks = [np.asarray(Image.open(p)) for p in textures["label"]]
    values = sorted({int(v) for m in masks for v in np.unique(m)})[1:3]
    columns = {name: [(m == v).astype(np.uint8) for m in masks] for name, v in zip("ab", values, strict=True)}
    table = textures[["image"]].assign(**columns)
    seg = tiny(tmp_path / "m", label=["a", "b"]).fit(table, **NO_SEARCH)
    apart = [(m == values[0]) + 2 * (m == values[1]).astype(np.uint8) for m in masks]
    pages = [
        seg.report(tmp_path / "a.html", table, n=2),
        seg.report(tmp_path / "b.html", table[["image"]], apart, n=2),
    ]
    a, b = (re.sub("<footer>.*", "", p.read_text(encoding="utf-8")) for p in pages)
    assert a == b and "mean_iou" in a


def test_names_from_outside_are_text(textures: pd.DataFrame, tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>&'
    seg = tiny(tmp_path / "<b>m", classes=[evil, "b", "c"]).fit(textures, **NO_SEARCH)
    table = textures[:2].set_index(pd.Index([evil, "<img src=x>"]))
    page = seg.report(tmp_path / "report.html", table, n=2)
    text = re.sub(r"base64,[^\"]*", "", page.read_text(encoding="utf-8"))
    assert "<script" not in text and "<b>m" not in text and "<img src=x" not in text
    tree = parse(page)
    assert sum(evil in (e.text or "") for e in tree.iter(f"{HTML}td")) >= 2
    assert {c.text.split("\n")[0] for c in tree.iter(f"{HTML}figcaption")} == {evil, "<img src=x>"}


def test_fifty_pictures_take_less_than_5_mb(
    multiclass: SemanticSegmentor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise, which compresses worst, is shown smaller. Here 5 pictures with a tenth of the room for 50."""
    rng = np.random.default_rng(0)
    display = ErrorGalleryDisplay(
        images=[rng.integers(0, 256, (300, 400, 3), np.uint8) for _ in range(5)],
        truths=[rng.integers(0, 3, (300, 400)) for _ in range(5)],
        predictions=[rng.integers(0, 3, (300, 400)) for _ in range(5)],
        label_map=multiclass._model.label_map,
        titles=["x"] * 5,
    )
    room = report._MOST_BYTES
    free = len(report.gallery({"worst": display}))
    monkeypatch.setattr(report, "_MOST_BYTES", room // 10)
    pictures = report.gallery({"worst": display})
    assert pictures.count("<figure>") == 5 and len(pictures) <= room // 10 < free
    rest = multiclass.report(tmp_path / "report.html").stat().st_size
    assert room + 2 * rest < 5e6


def test_a_browser_shows_it_without_a_complaint(
    browser: Any, multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    page = multiclass.report(tmp_path / "report.html", textures, n=4)
    told: list[str] = []
    for width in (1280, 400):
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: told.append(str(error)))
        tab.on("requestfailed", lambda request: told.append(f"failed: {request.url[:80]}"))
        requests: list[str] = []
        tab.on("request", lambda request, seen=requests: seen.append(request.url))
        tab.goto(page.as_uri(), wait_until="load")
        assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
        assert tab.title() == f"Report on {multiclass.path_.name}"
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert tab.evaluate(broken) == 0 and tab.evaluate("document.images.length") == 3 + 4 * 4
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        tab.close()
    assert told == []


def test_what_is_refused(multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is a folder"):
        multiclass.report(tmp_path)
    with pytest.raises(ArtifactError, match="is not there"):
        multiclass.report(tmp_path / "absent" / "report.html")
    with pytest.raises(ConfigError, match=r"^n .*must be"):
        multiclass.report(tmp_path / "report.html", textures, n=-1)
    with pytest.raises(DataError, match="'label' is not among the columns"):
        multiclass.report(tmp_path / "report.html", textures[["image"]])
    with pytest.raises(NotFittedError):
        tiny().report(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []

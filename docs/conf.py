"""Sphinx's configuration. ``make docs`` builds the pages and runs the tutorials; a warning is an error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import semseg_automl

os.environ.setdefault("MPLBACKEND", "Agg")
project = "semseg-automl"
author = "the semseg-automl authors"
release = version = semseg_automl.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "tutorials", "examples"]
html_theme = "furo"
html_title = "semseg-automl"
html_copy_source = False

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
myst_links_external_new_tab = True

autodoc_typehints = "none"  # numpydoc's sections say it in words
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
plot_include_source = False
plot_html_show_source_link = False
plot_html_show_formats = False
plot_formats = [("png", 110)]

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "min_reported_time": 10**6,
    "show_memory": False,
    "remove_config_comments": True,
}
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings hold what can't be pickled

README_SECTIONS = {  # sections of the README that are pages here
    "hyperparameters": "reference/hyperparameters.md",
    "adapters": "reference/adapters.md",
    "backbones": "reference/backbones.md",
    "metrics": "reference/metrics.md",
}


def _relink(_app: Any, page: str, source: list[str]) -> None:
    """Turn links that lead out of this folder on a repository's site into links that lead to pages here."""
    up = "../" * page.count("/")
    for section, target in README_SECTIONS.items():
        source[0] = source[0].replace(f"]({up}../README.md#{section})", f"]({up}{target})")
    source[0] = source[0].replace(f"]({up}tutorials/)", f"]({up}gallery/index.rst)")


def _relink_included(_app: Any, path: Any, _parent: str, source: list[str]) -> None:
    """As :func:`_relink`, for the parts of README that pages include."""
    if Path(path).name != "README.md":
        return
    for section, target in README_SECTIONS.items():
        source[0] = source[0].replace(f"](#{section})", f"](/{target})")
    source[0] = source[0].replace("](docs/", "](/")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _relink)
    app.connect("include-read", _relink_included)

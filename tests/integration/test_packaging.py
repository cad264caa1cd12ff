"""Wheel and sdist can be built, hold what they should, and the wheel works where only it was installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.integration.quick import ROOT

BUILT_FROM = ("semseg_automl", "pyproject.toml", "README.md", "LICENSE")
pytest.importorskip("build", reason="build is in the extra [dev]")


def _run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist, built in a copy so that the checkout stays clean."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), cwd=source)
    return target


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        names = archive.namelist()
    package = {n for n in names if n.startswith("semseg_automl/")}
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "semseg_automl").rglob("*.py")}
    assert sources | {"semseg_automl/py.typed"} <= package
    assert {n.split("/")[0] for n in names} - {"semseg_automl"} == {
        next(n for n in names if ".dist-info/" in n).split("/")[0]
    }


@pytest.mark.slow
def test_the_sdist_holds_the_licence_and_the_marker_of_types(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = archive.getnames()
    for name in ("LICENSE", "README.md", "pyproject.toml", "semseg_automl/py.typed"):
        assert any(n.endswith(f"/{name}") for n in names), name


@pytest.mark.slow
def test_the_installed_wheel_works_away_from_the_checkout(built: Path, tmp_path: Path) -> None:
    """Installed alone into an empty folder; the packages that it requires come from this environment."""
    site, wheel = tmp_path / "site", str(next(built.glob("*.whl")))
    _run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site), wheel, cwd=tmp_path)
    code = (
        "import semseg_automl, semseg_automl.cli; from semseg_automl import SemanticSegmentor, datasets;"
        "datasets.make_textures('d', n=4, size=(32, 32), n_classes=2).to_csv('d.csv', index=False);"
        "seg = SemanticSegmentor(backbone='sam_tiny', path='m', verbosity=0).fit('d.csv', "
        "hyperparameters={'max_epochs': 1, 'image_size': 32}, hyperparameter_tune_kwargs=None);"
        "print(semseg_automl.__file__, len(seg.predict('d.csv')))"
    )
    where, count = _run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site)).split()[-2:]
    assert Path(where).is_relative_to(site) and count == "4"


def test_all_is_every_extra_for_users() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(everything.removeprefix("semseg-automl[").removesuffix("]").split(","))
    assert named == set(extras) - {"all", "dev", "docs"}

"""One tiny model for all tests of the command line, fitted through it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from semseg_automl.cli import main

TINY = [
    "--backbone",
    "sam_tiny",
    "--no-search",
    "--hyperparameters",
    "image_size=64,max_epochs=1,num_experts=2",
]


@dataclass(frozen=True)
class Place:
    """A model's folder with its tables (columns pic and seg), and what the fit printed."""

    model: Path
    train: Path
    test: Path
    pictures: list[str]


@pytest.fixture(scope="session")
def place(textures: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Fitted by ``semseg-automl fit`` on nine pictures; three are left."""
    folder = tmp_path_factory.mktemp("cli")
    table = textures.rename(columns={"image": "pic", "label": "seg"})
    train, test = folder / "train.csv", folder / "test.csv"
    table[:9].to_csv(train, index=False)
    table[9:].to_csv(test, index=False)
    columns = ["--image", "pic", "--label", "seg"]
    code = main(
        ["fit", str(train), "--path", str(folder / "model"), "--time-limit", "5", "-qq", *columns, *TINY]
    )
    assert code == 0
    return Place(model=folder / "model", train=train, test=test, pictures=list(table["pic"][9:]))

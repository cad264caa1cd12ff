"""``fit --config``: a TOML file of the estimator's arguments; options on the line win."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from semseg_automl import space
from semseg_automl.cli.arguments import build_parser
from semseg_automl.cli.fit import settings
from semseg_automl.core.errors import ConfigError
from semseg_automl.estimator._resolve import resolve_request

FILE = """
train_data = "tables/train.csv"
path = "model"
time_limit = 600
problem_type = "multiclass"
classes = ["sky", "road"]
ignore_index = "none"
verbosity = 1
hyperparameter_tune_kwargs = { num_trials = 3 }

[hyperparameters]
rank = { lower = 2, upper = 32, log = true }
learning_rate = { lower = 1e-4, upper = 1e-2 }
adapter = ["lora", "conv_lora"]
image_size = 512
crop_size = "none"
"""


def read(folder: Path, text: str, line: str = "") -> dict[str, Any]:
    file = folder / "fit.toml"
    file.write_text(text, encoding="utf-8")
    return settings(build_parser().parse_args(["fit", "--config", str(file), *line.split()]))


def test_a_file_holds_every_argument_by_its_name(tmp_path: Path) -> None:
    assert read(tmp_path, FILE) == {
        "train_data": str(tmp_path / "tables/train.csv"),
        "path": str(tmp_path / "model"),
        "time_limit": 600,
        "problem_type": "multiclass",
        "classes": ["sky", "road"],
        "ignore_index": None,
        "verbosity": 1,
        "hyperparameter_tune_kwargs": {"num_trials": 3},
        "hyperparameters": {
            "rank": space.Int(2, 32, log=True),
            "learning_rate": space.Real(1e-4, 1e-2),
            "adapter": ["lora", "conv_lora"],
            "image_size": 512,
            "crop_size": None,
        },
    }


def test_options_win_over_the_file(tmp_path: Path) -> None:
    line = "--time-limit 5 --path here --no-search --ignore-index 255 -qq --hyperparameters rank=4"
    found = read(tmp_path, FILE, line)
    assert found["time_limit"] == 5.0 and found["path"] == "here" and found["ignore_index"] == 255
    assert found["hyperparameter_tune_kwargs"] is None and found["verbosity"] == 0
    assert found["hyperparameters"] == {"rank": 4} and found["classes"] == ["sky", "road"]
    assert read(tmp_path, FILE, "--trials 7")["hyperparameter_tune_kwargs"] == {"num_trials": 7}


def test_nothing_given_leaves_the_estimators_defaults() -> None:
    args = build_parser().parse_args(["fit", "t.csv"])
    assert settings(args) == {"train_data": "t.csv", "verbosity": 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("time_limt = 5", "Did you mean 'time_limit'"),
        ("callbacks = []", "Unknown argument"),
        ("train_data = ", "can't be read"),
        ("time_limit = 5", "has no train_data"),
        ('train_data = "t.csv"\nhyperparameters = { rank = { low = 2, high = 4 } }', "a table is a range"),
        (
            'train_data = "t.csv"\nhyperparameters = { rank = { lower = "2", upper = 4 } }',
            "a table is a range",
        ),
    ],
)
def test_what_a_file_may_not_hold(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        settings(build_parser().parse_args(["fit", "--config", str(tmp_path / "absent.toml")]))


def test_options_of_the_search_win_over_the_file_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "fit.toml"
    file.write_text('train_data = "t.csv"\n[hyperparameter_tune_kwargs]\nnum_trials = 9\nmax_latency = 0.5\n')
    line = f"fit --config {file} --trials 5 --search-workers 2 --max-memory 900"
    found = settings(build_parser().parse_args(line.split()))["hyperparameter_tune_kwargs"]
    assert found == {"num_trials": 5, "num_workers": 2, "max_memory": 900.0, "max_latency": 0.5}
    with pytest.raises(ConfigError, match="--no-search leaves no place for num_workers"):
        settings(build_parser().parse_args(["fit", "t.csv", "--no-search", "--search-workers", "2"]))


def test_classes_by_raw_value(tmp_path: Path) -> None:
    text = 'train_data = "t.csv"\n[classes]\n0 = "field"\n7 = "road"\n9 = "none"\n'
    assert read(tmp_path, text)["classes"] == {0: "field", 7: "road", 9: None}
    text = 'train_data = "t.csv"\nclasses = { "(0, 0, 0)" = "field", "(255, 0, 0)" = "road" }\n'
    assert read(tmp_path, text)["classes"] == {(0, 0, 0): "field", (255, 0, 0): "road"}


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "command_line.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    found = read(tmp_path, text)
    assert found["train_data"] == str(tmp_path / "train.csv") and found["time_limit"] == 600
    assert found["classes"] == {0: "field", 1: "forest", 2: "road"} and found["ignore_index"] is None
    asked = found["hyperparameters"]
    assert asked["learning_rate"] == space.Real(1e-4, 1e-2, log=True) and asked["adapter"] == [
        "lora",
        "conv_lora",
    ]
    resolve_request(
        presets=found["presets"],
        hyperparameters=asked,
        tune_kwargs=found["hyperparameter_tune_kwargs"],
        devices="auto",
        num_workers="auto",
        seed=0,
        verbosity=0,
        storage=None,
        callbacks=None,
    )

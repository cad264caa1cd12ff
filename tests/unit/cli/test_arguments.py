"""The grammar: values of --hyperparameters and --devices, verbosity, what --help costs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from semseg_automl.cli import VERBS, main
from semseg_automl.cli.arguments import build_parser, verbosity_of
from semseg_automl.cli.values import (
    parse_devices,
    parse_hyperparameters,
    parse_number,
    parse_raw_value,
    parse_tile,
    parse_words,
)
from semseg_automl.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (None, None),
        ("", {}),
        ("rank=4", {"rank": 4}),
        (" rank = 4 , learning_rate=1e-4,", {"rank": 4, "learning_rate": 1e-4}),
        ("adapter=lora", {"adapter": "lora"}),
        ("adapter='lora'", {"adapter": "lora"}),
        ("placement=last_4", {"placement": "last_4"}),
        ("crop_size=None,gradient_checkpointing=true", {"crop_size": None, "gradient_checkpointing": True}),
        ("rank=[4,8],adapter=[lora,conv_lora]", {"rank": [4, 8], "adapter": ["lora", "conv_lora"]}),
        ("image_size=(384,512)", {"image_size": (384, 512)}),
        ("image_size=[(384,512),(192,256)]", {"image_size": [(384, 512), (192, 256)]}),
        ('{"rank": [4, 8], "adapter": "lora"}', {"rank": [4, 8], "adapter": "lora"}),
    ],
)
def test_hyperparameters(text: str | None, values: dict[str, Any] | None) -> None:
    found = parse_hyperparameters(text)
    assert found == values
    assert found is None or [type(v) for v in found.values()] == [type(v) for v in (values or {}).values()]


@pytest.mark.parametrize("text", ["rank", "rank=", "=4", "rank=4,rank=8", '{"rank": }', "rank=4;5,x"])
def test_malformed_hyperparameters_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--hyperparameters"):
        parse_hyperparameters(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("auto", "auto"), ("2", 2), ("0,1", [0, 1]), ("cuda:0,1", "cuda:0,1"), ("cpu:2", "cpu:2")],
)
def test_devices(text: str, value: object) -> None:
    assert parse_devices(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("auto", "auto"), ("None", None), ("512", 512), ("whole", "whole"), ("-5", "-5")]
)
def test_tile(text: str, value: object) -> None:
    assert parse_tile(text) == value
    assert build_parser().parse_args(["evaluate", "m", "t.csv", f"--tile={text}"]).tile == text


def test_words_and_numbers() -> None:
    assert parse_words(None, "--x") is None and parse_words(" sky, road,", "--x") == ["sky", "road"]
    with pytest.raises(ConfigError, match="--metrics ',' names nothing"):
        parse_words(",", "--metrics")
    assert parse_number("8") == 8 and parse_number("auto") == "auto"
    values = {"255": 255, "none": None, "auto": "auto", "(0,0,0)": (0, 0, 0)}
    assert {text: parse_raw_value(text) for text in values} == values


@pytest.mark.parametrize(
    ("line", "guess"),
    [
        ("evalute model test.csv", "Did you mean 'evaluate'?"),
        ("fit train.csv --time-limt=60", "Did you mean '--time-limit'?"),
        ("predict model a.png --output-dir out --out-dir b", "Did you mean '--output-dir'?"),
        ("weights fetsh mobile_sam", "Did you mean 'fetch'?"),
        ("weights list --jsn", "Did you mean '--json'?"),
        ("fit train.csv --problem-type binry", "Did you mean 'binary'?"),
        ("completion bas", "Did you mean 'bash'?"),
        ("leaderboard model a.csv b.csv", "unrecognized arguments: b.csv"),
    ],
)
def test_mistakes_get_a_guess(line: str, guess: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    told = capsys.readouterr()
    assert ended.value.code == 2 and guess in told.err and told.out == ""
    assert "--help" in told.err.splitlines()[-1]


def test_every_verb_speaks_json() -> None:
    lines = ["fit t.csv", "predict m a.png --output-dir o", "evaluate m t.csv", "leaderboard m", "report m"]
    lines += [
        "export m m.onnx",
        "demo",
        "weights list",
        "weights fetch sam_tiny",
        "doctor",
        "worker m",
        "completion bash",
    ]
    assert {line.split()[0] for line in lines} == set(VERBS)
    for line in lines:
        assert build_parser().parse_args([*line.split(), "--json"]).json is True


def test_verbosity_counts() -> None:
    levels = {"": 2, "-v": 3, "-q": 1, "-qq": 0, "-qqq": 0}
    for flag, level in levels.items():
        assert verbosity_of(build_parser().parse_args(["doctor", *filter(None, [flag])])) == level


def test_every_verb_has_a_function_and_a_parser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for verb in VERBS:
        assert f"\n    {verb}" in shown
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0


@pytest.mark.parametrize(
    "line",
    ["", "fitt train.csv", "fit", "fit a.csv --time-limit soon", "predict model a.png", "weights"],
)
def test_a_line_that_is_no_command_exits_with_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert "usage: semseg-automl" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import json, sys\nfrom semseg_automl.cli import main\n"
        "try: main(['fit', '--help'])\nexcept SystemExit: pass\n"
        "print('\\n' + json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "semseg_automl.cli" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "sklearn", "lightning", "optuna", "matplotlib", "PIL"}

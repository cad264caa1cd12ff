"""The grammar of the command line; the standard library and two registries of names, nothing heavy."""

from __future__ import annotations

import argparse
import ast
import json
from typing import Any

from semseg_automl import __version__
from semseg_automl.core.errors import ConfigError
from semseg_automl.estimator.presets import DEFAULT_PRESET, PRESETS
from semseg_automl.models.weights_registry import BACKBONES

_EPILOG = """examples:
  semseg-automl fit train.csv --time-limit 600 --path model/
  semseg-automl evaluate model/ test.csv
  semseg-automl predict model/ pictures/*.jpg --output-dir masks/

exit code: 0 done; 1 a run that failed (no weights, no model, interrupted, pictures that predict
could not read); 2 wrong input."""
_HYPERPARAMETERS = """name=value,... or a JSON object; a list in brackets means choices to search,
                     e.g. "rank=[4,8,16],adapter=lora" or '{"image_size": 512}'"""
_WORDS = {"none": None, "null": None, "true": True, "false": False}
_BRACKETS = {"[": "]", "(": ")", "{": "}"}


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``semseg-automl``; its result has ``verb`` and each verb's arguments."""
    parser = argparse.ArgumentParser(
        prog="semseg-automl",
        description="Fine-tune the Segment Anything Model on your own pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"semseg-automl {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    common = _common()
    _fit(verbs.add_parser("fit", parents=[common], help="train a model on a table of pictures and masks"))
    _predict(verbs.add_parser("predict", parents=[common], help="write a mask for each picture"))
    _evaluate(verbs.add_parser("evaluate", parents=[common], help="score a model on a table with masks"))
    board = verbs.add_parser("leaderboard", parents=[common], help="every model that a fit tried, best first")
    board.add_argument("model", help="folder of a model")
    board.add_argument("--json", action="store_true", help="one JSON list with every column")
    _demo(verbs.add_parser("demo", parents=[common], help="a whole run on a small problem, with a picture"))
    _weights(verbs.add_parser("weights", help="what weights are here; fetch some"), common)
    doctor = verbs.add_parser(
        "doctor", parents=[common], help="this machine: devices, memory, versions, weights"
    )
    doctor.add_argument("--json", action="store_true")
    return parser


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-v", "--verbose", action="count", default=0, help="more messages")
    common.add_argument("-q", "--quiet", action="count", default=0, help="warnings only; -qq: errors only")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return common


def verbosity_of(args: argparse.Namespace) -> int:
    """The estimator's ``verbosity``: 2, one more for each -v, one less for each -q."""
    return int(max(0, 2 + args.verbose - args.quiet))


def _columns(
    parser: argparse.ArgumentParser, image: str | None = "image", label: str | None = "label"
) -> None:
    """Column names; for a fitted model None, which means the ones of its fit."""
    shown = [name or "as in the fit" for name in (image, label)]
    parser.add_argument(
        "--image", default=image, metavar="COLUMN", help=f"column of pictures; default: {shown[0]}"
    )
    parser.add_argument(
        "--label", default=label, metavar="COLUMN", help=f"column of masks; default: {shown[1]}"
    )


def _fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("train", metavar="TRAIN.csv", help="table of paths, relative to the file")
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="wall clock of the whole fit; default: one hour",
    )
    parser.add_argument("--path", metavar="FOLDER", help="of the model; default: SemsegModels/<time>")
    parser.add_argument(
        "--tuning-data", metavar="VAL.csv", help="validation pictures; default: a part of TRAIN.csv"
    )
    parser.add_argument("--presets", metavar="NAME", help=f"{', '.join(PRESETS)}; default: {DEFAULT_PRESET}")
    parser.add_argument(
        "--backbone", default="auto", help=f"{', '.join(BACKBONES)}, or a weight file; default: auto"
    )
    parser.add_argument("--hyperparameters", metavar="VALUES", help=_HYPERPARAMETERS)
    parser.add_argument(
        "--problem-type", choices=("binary", "multiclass"), help="default: inferred from the masks"
    )
    _columns(parser)
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--devices", default="auto", help="auto, cpu, cuda, cuda:0,1, mps, or a number; default: auto"
    )
    parser.add_argument(
        "--no-search", action="store_true", help="train one model, in its planned configuration"
    )
    parser.add_argument(
        "--init-from", metavar="MODEL", help="a model whose adapter and head start the training"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the model that lies in --path")


def _predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder of a model")
    parser.add_argument("data", nargs="+", metavar="TEST.csv|PICTURE", help="one table, or pictures")
    parser.add_argument(
        "--output-dir",
        required=True,
        metavar="FOLDER",
        help="gets a PNG per picture, and a manifest; what is finished there is not done again",
    )
    _tile(parser)
    parser.add_argument(
        "--tta",
        metavar="NAME",
        help="views to average: none, mirror, flips, scales, flips_and_scales; default: as the preset says",
    )
    parser.add_argument(
        "--shard", metavar="I/N", help="only part I (from 0) of N, for several processes on one table"
    )
    _columns(parser, None, None)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder of a model")
    parser.add_argument("data", metavar="TEST.csv", help="table with masks")
    parser.add_argument("--json", action="store_true", help="one JSON object, or a list of rows")
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--per-class", action="store_true", help="a row per class")
    rows.add_argument("--per-image", action="store_true", help="a row per picture")
    _tile(parser)
    _columns(parser, None, None)


def _tile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tile",
        default="auto",
        metavar="SIDE",
        help="tiles of so many pixels, auto (pictures much larger than those of the fit), or none; "
        "default: auto",
    )


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="TRAIN.csv", help="your table; a fifth is held out; default: generated"
    )
    parser.add_argument(
        "--time-limit", type=float, default=120.0, metavar="SECONDS", help="of the fit; default: 120"
    )
    parser.add_argument(
        "--path",
        default="semseg_demo",
        metavar="FOLDER",
        help="each run adds a subfolder; default: semseg_demo",
    )
    parser.add_argument("--backbone", default="mobile_sam", help="default: mobile_sam")
    _columns(parser)


def _weights(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|fetch")
    actions.add_parser("list", parents=[common], help="backbones, and whether their weights are here")
    fetch = actions.add_parser("fetch", parents=[common], help="find or download weights, and check them")
    fetch.add_argument("name", metavar="NAME", help=", ".join(BACKBONES))


def parse_hyperparameters(text: str | None) -> dict[str, Any] | None:
    """``rank=4,adapter=lora`` or a JSON object as a dict.

    In the first form ``[a,b]`` is a list (choices to search), ``(a,b)`` a tuple (one value), None,
    true and false are what they say, and what is no number is text.

    Raises
    ------
    ConfigError
        Neither of the two forms, or a name given twice.
    """
    if text is None:
        return None
    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise ConfigError(f"--hyperparameters {text!r} is no JSON object: {error}.") from error
    values: dict[str, Any] = {}
    for part in _split(text):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip() or name.strip() in values:
            why = "occurs twice" if name.strip() in values else "is not name=value"
            raise ConfigError(
                f"--hyperparameters: {part.strip()!r} {why}. Write rank=4,adapter=lora or a JSON object."
            )
        values[name.strip()] = _value(value)
    return values


def _split(text: str) -> list[str]:
    """Split at the commas that are outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in _BRACKETS) - (letter in _BRACKETS.values())
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


def _value(text: str) -> Any:
    text = text.strip()
    if text[0] in "[(" and text[-1] == _BRACKETS[text[0]]:
        items = [_value(part) for part in _split(text[1:-1])]
        return items if text[0] == "[" else tuple(items)
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, int | float | str) else text


def parse_tile(text: str) -> str | int | None:
    """``512`` is a side, ``none`` means whole pictures, all else is left for the estimator to judge."""
    if text.lower() == "none":
        return None
    return int(text) if text.isdigit() else text.lower()


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """``0/4`` is the first of four parts.

    Raises
    ------
    ConfigError
        It is not two numbers with a stroke between.
    """
    if text is None:
        return None
    first, stroke, count = text.partition("/")
    if not (stroke and first.isdigit() and count.isdigit()):
        raise ConfigError(f"--shard {text!r} must be I/N: part I of N, counted from 0, such as 0/4.")
    return int(first), int(count)


def parse_devices(text: str) -> str | int | list[int]:
    """``2`` is a number of devices, ``0,1`` a list of CUDA devices, all else a name."""
    numbers = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in numbers):
        return text
    return int(text) if len(numbers) == 1 else [int(part) for part in numbers]

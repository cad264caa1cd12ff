"""The grammar of the command line; the standard library and two registries of names, nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from semseg_automl import __version__
from semseg_automl.cli.parser import Parser
from semseg_automl.estimator.presets import DEFAULT_PRESET, PRESETS
from semseg_automl.models.weights_registry import BACKBONES

_EPILOG = """examples:
  semseg-automl fit train.csv --time-limit 600 --path model/
  semseg-automl fit --config fit.toml
  semseg-automl evaluate model/ test.csv
  semseg-automl predict model/ pictures/ --output-dir masks/
  semseg-automl report model/ test.csv --output report.html

exit code: 0 done; 1 a run that failed (no weights, no model came of it, interrupted, pictures that
predict could not read); 2 wrong input (arguments, tables, folders, saved models)."""
_HYPERPARAMETERS = """name=value,... or a JSON object; a list in brackets means choices to search,
                     e.g. "rank=[4,8,16],adapter=lora" or '{"image_size": 512}'"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``semseg-automl``; its result has ``verb`` and each verb's arguments."""
    parser = Parser(
        prog="semseg-automl",
        description="Fine-tune the Segment Anything Model on your own pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"semseg-automl {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    common = _common()
    for name, (text, build) in _VERBS.items():
        parents = [] if name == "weights" else [common]
        build(verbs.add_parser(name, parents=parents, help=text, description=text[0].upper() + text[1:]))
    return parser


def _common() -> Parser:
    common = Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("-v", "--verbose", action="count", default=0, help="more messages")
    common.add_argument("-q", "--quiet", action="count", default=0, help="warnings only; -qq: errors only")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return common


def verbosity_of(args: argparse.Namespace) -> int:
    """The estimator's ``verbosity``: 2, one more for each -v, one less for each -q."""
    return int(max(0, 2 + args.verbose - args.quiet))


def _columns(
    parser: argparse.ArgumentParser,
    image: str | None,
    label: str | None,
    shown_image: str = "as in the fit",
    shown_label: str = "as in the fit",
) -> None:
    """Column names; None leaves the choice to the fitted model or the configuration file."""
    parser.add_argument(
        "--image", default=image, metavar="COLUMN", help=f"column of pictures; default: {shown_image}"
    )
    parser.add_argument(
        "--label", default=label, metavar="COLUMN", help=f"column of masks; default: {shown_label}"
    )


def _fit(parser: argparse.ArgumentParser) -> None:
    """What is not given stays None: then the file of --config decides, else the estimator's default."""
    add = parser.add_argument
    add("train", metavar="TRAIN.csv", nargs="?", help="table of paths, relative to the file")
    add("--config", metavar="FIT.toml", help="arguments of the constructor and of fit by name; options win")
    add(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="of wall clock for the whole fit; default: one hour, with --no-search or --trials none",
    )
    add("--path", metavar="FOLDER", help="of the model; default: SemsegModels/<time>")
    add("--tuning-data", metavar="VAL.csv", help="validation pictures; default: a part of TRAIN.csv")
    add(
        "--holdout-frac",
        type=float,
        metavar="SHARE",
        help="of TRAIN.csv for validation; default: about 0.15, at most 200 pictures",
    )
    add("--groups", metavar="COLUMN", help="rows that share its value stay on one side of the split")
    add("--presets", metavar="NAME", help=f"{', '.join(PRESETS)}; default: {DEFAULT_PRESET}")
    add("--backbone", metavar="NAME", help=f"{', '.join(BACKBONES)}, timm:NAME or a file; default: auto")
    add("--hyperparameters", metavar="VALUES", help=_HYPERPARAMETERS)
    add("--problem-type", choices=("binary", "multiclass"), help="default: inferred from the masks")
    add("--classes", metavar="NAMES", help="names such as sky,road for the mask values in ascending order")
    add("--ignore-index", metavar="VALUE", help="mask value that is no class; auto, none or a number")
    add("--eval-metric", metavar="NAME", help="that models are chosen by; default: iou or mean_iou")
    _columns(parser, None, None, "image", "label")
    add("--seed", type=int, help="default: 0")
    add("--devices", help="auto, cpu, cuda, cuda:0,1, mps, or a number; default: auto")
    add("--num-workers", metavar="N", help="processes that read pictures; default: auto")
    searching = parser.add_mutually_exclusive_group()
    searching.add_argument(
        "--no-search", action="store_true", default=None, help="train one model, in its planned configuration"
    )
    searching.add_argument("--trials", type=int, metavar="N", help="of the search; default: what time allows")
    add(
        "--search-workers",
        type=int,
        metavar="N",
        help="processes that train trials; default: one per GPU, on a CPU as measured",
    )
    add("--max-memory", type=float, metavar="MB", help="that training the model may take at its peak")
    add("--max-latency", type=float, metavar="SECONDS", help="that the model may take for a picture")
    add("--storage", metavar="URL", help="Optuna storage of the search")
    add("--init-from", metavar="MODEL", help="a model whose adapter and head start the training")
    add("--resume", action="store_true", default=None, help="go on from the model that lies in --path")


def _predict(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument(
        "data",
        nargs="+",
        metavar="TEST.csv|PICTURE|FOLDER",
        help="one table, or pictures and folders of pictures",
    )
    parser.add_argument(
        "--output-dir",
        required=True,
        metavar="FOLDER",
        help="gets a PNG per picture, and a manifest; what is finished there is not done again",
    )
    parser.add_argument("--batch-size", default="auto", metavar="N", help="pictures at a time; default: auto")
    _views(parser)
    parser.add_argument(
        "--shard", metavar="I/N", help="only part I (from 0) of N, for several processes on one table"
    )
    _columns(parser, None, None)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("data", metavar="TEST.csv", help="table with masks")
    parser.add_argument("--metrics", metavar="NAMES", help="such as iou,boundary_f; default: the usual ones")
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--per-class", action="store_true", help="a row per class")
    rows.add_argument("--per-image", action="store_true", help="a row per picture")
    rows.add_argument(
        "--confidence", type=float, metavar="LEVEL", help="such as 0.95: intervals from 1000 bootstrap draws"
    )
    parser.add_argument("--strict-labels", action="store_true", help="unknown mask values are an error")
    _views(parser)
    _columns(parser, None, None)


def _leaderboard(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("data", nargs="?", metavar="TEST.csv", help="adds a column score_test")
    _columns(parser, None, None)


def _report(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument(
        "data", nargs="?", metavar="TEST.csv", help="table with masks: adds scores, confusion and pictures"
    )
    parser.add_argument("--output", default="report.html", metavar="FILE", help="default: report.html")
    parser.add_argument("--pictures", type=int, default=12, metavar="N", help="in the page; default: 12")
    _columns(parser, None, None)


def _export(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("output", metavar="MODEL.onnx", help="file to write")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="bind the file to this size, in multiples of 32; default: any",
    )


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder of a model")


def _views(parser: argparse.ArgumentParser) -> None:
    """How pictures are seen: in tiles, mirrored."""
    parser.add_argument(
        "--tile",
        default="auto",
        metavar="SIDE",
        help="tiles of so many pixels, auto (pictures much larger than those of the fit), or none; "
        "default: auto",
    )
    parser.add_argument(
        "--tta",
        metavar="NAME",
        help="views to average: none, mirror, flips, scales, flips_and_scales; default: as the preset says",
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
    _columns(parser, "image", "label", "image", "label")


def _weights(parser: argparse.ArgumentParser) -> None:
    common = _common()
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|fetch")
    actions.add_parser("list", parents=[common], help="backbones, and whether their weights are here")
    fetch = actions.add_parser("fetch", parents=[common], help="find or download weights, and check them")
    fetch.add_argument("name", metavar="NAME", help=", ".join(BACKBONES))


def _worker(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("path", metavar="MODEL", help="folder that a fit is writing into, on a disk that both can see")
    add("--storage", metavar="URL", help="Optuna storage of the search; default: as the fit names it")
    add("--devices", help="the first of these trains: auto, cpu, cuda:1, ...; default: auto")
    add("--threads", type=int, metavar="N", help="for arithmetic on the CPU; default: all cores")
    add("--name", metavar="NAME", help="on the leaderboard; default: host and process")


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="whose script is printed")


def _nothing(_parser: argparse.ArgumentParser) -> None:
    """A verb without options of its own."""


_VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "fit": ("train a model on a table of pictures and masks", _fit),
    "predict": ("write a mask for each picture", _predict),
    "evaluate": ("score a model on a table with masks", _evaluate),
    "leaderboard": ("every model that a fit tried, best first", _leaderboard),
    "report": ("one HTML page about a model: plan, scores, curves, pictures", _report),
    "export": ("one ONNX file, compared with torch before it is done", _export),
    "demo": ("a whole run on a small problem, with a picture", _demo),
    "weights": ("what weights are here; fetch some", _weights),
    "doctor": ("this machine: devices, memory, what fits, versions, weights", _nothing),
    "worker": ("join a running search from another shell or machine", _worker),
    "completion": ("a script that completes commands in your shell", _completion),
}

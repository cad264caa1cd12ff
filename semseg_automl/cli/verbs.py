"""The verbs that use a model: predict, evaluate, leaderboard, report, export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from semseg_automl import SemanticSegmentor
from semseg_automl.cli.arguments import verbosity_of
from semseg_automl.cli.output import as_json, complain, leaderboard_table, records, say, table
from semseg_automl.cli.pictures import table_or_pictures
from semseg_automl.cli.values import parse_number, parse_shard, parse_tile, parse_words


def predict(args: argparse.Namespace) -> int:
    """Write a PNG in raw label values per picture; prints how many there are and where.

    Answers 1 where pictures could not be read; the others have their masks.
    """
    paths = _load(args).predict(
        table_or_pictures(args.data, args.output_dir),
        output_dir=args.output_dir,
        batch_size=parse_number(args.batch_size),
        tta=args.tta,
        tile=parse_tile(args.tile),
        shard=parse_shard(args.shard),
    )
    done = sum(path is not None for path in paths)
    if args.json:
        say(as_json([{"row": row, "mask": path} for row, path in paths.items()]))
    else:
        say(f"{done} mask{'' if done == 1 else 's'} in {args.output_dir}")
    if done < len(paths):
        complain(f"{len(paths) - done} of {len(paths)} pictures could not be read: see the manifest there")
    return 0 if done == len(paths) else 1


def evaluate(args: argparse.Namespace) -> int:
    """Score a model; prints a line per metric, or a table, or JSON."""
    result = _load(args).evaluate(
        args.data,
        parse_words(args.metrics, "--metrics"),
        per_class=args.per_class,
        per_image=args.per_image,
        confidence=args.confidence,
        strict_labels=args.strict_labels,
        tta=args.tta,
        tile=parse_tile(args.tile),
    )
    if isinstance(result, dict):
        say(as_json(result) if args.json else scores(result))
        return 0
    result = result.rename_axis(index=result.index.name or "row").reset_index()
    say(as_json(records(result)) if args.json else table(result))
    return 0


def leaderboard(args: argparse.Namespace) -> int:
    """Print every model that a fit tried, best first."""
    frame = _load(args).leaderboard(args.data)
    say(as_json(records(frame)) if args.json else leaderboard_table(frame))
    return 0


def report(args: argparse.Namespace) -> int:
    """Write the page about a model; prints where it is."""
    page = _load(args).report(args.output, args.data, n=args.pictures)
    _written(args, "report", page)
    return 0


def export(args: argparse.Namespace) -> int:
    """Write the model as ONNX; prints where it is."""
    seg = SemanticSegmentor.load(args.model, verbosity=verbosity_of(args))
    _written(args, "onnx", seg.export_onnx(args.output, size=args.size and tuple(args.size)))
    return 0


def _written(args: argparse.Namespace, what: str, path: Path) -> None:
    size = path.stat().st_size
    say(as_json({what: str(path), "bytes": size}) if args.json else f"{what}: {path} ({size / 1e6:.1f} MB)")


def scores(result: dict[str, Any]) -> str:
    """A line per metric."""
    width = max(map(len, result), default=0)
    return "\n".join(f"{name:<{width}}  {value:.4f}" for name, value in result.items())


def _load(args: argparse.Namespace) -> SemanticSegmentor:
    seg = SemanticSegmentor.load(args.model, verbosity=verbosity_of(args))
    seg.image, seg.label = args.image or seg.image, args.label or seg.label
    return seg

"""The verbs that make and use a model: fit, predict, evaluate, leaderboard."""

from __future__ import annotations

import argparse
from typing import Any

from semseg_automl import SemanticSegmentor
from semseg_automl.artifacts.layout import holds_model
from semseg_automl.cli.arguments import (
    parse_devices,
    parse_hyperparameters,
    parse_shard,
    parse_tile,
    verbosity_of,
)
from semseg_automl.cli.output import as_json, complain, leaderboard_table, records, say, table


def fit(args: argparse.Namespace) -> int:
    """Train a model; prints its folder and its score. The first Ctrl-C keeps the best so far."""
    seg = SemanticSegmentor(
        args.problem_type,
        image=args.image,
        label=args.label,
        backbone=args.backbone,
        path=args.path,
        random_state=args.seed,
        verbosity=verbosity_of(args),
    )
    seg.fit(
        args.train,
        tuning_data=args.tuning_data,
        time_limit=args.time_limit,
        presets=args.presets,
        hyperparameters=parse_hyperparameters(args.hyperparameters),
        hyperparameter_tune_kwargs=None if args.no_search else "auto",
        devices=parse_devices(args.devices),
        init_from=args.init_from,
        resume=args.resume,
    )
    if not holds_model(seg.path_):  # such as on a full disk: in memory only, which ends with this process
        seg.save()
    say(f"{seg.eval_metric_} on validation: {seg.best_score_:.4f}")
    say(f"model: {seg.path_}")
    return 0


def predict(args: argparse.Namespace) -> int:
    """Write a PNG in raw label values per picture; prints how many there are and where.

    Answers 1 where pictures could not be read; the others have their masks.
    """
    data = args.data[0] if _is_table(args.data) else args.data
    shard = parse_shard(args.shard)
    paths = _load(args).predict(
        data, output_dir=args.output_dir, tta=args.tta, tile=parse_tile(args.tile), shard=shard
    )
    done = sum(path is not None for path in paths)
    say(f"{done} mask{'' if done == 1 else 's'} in {args.output_dir}")
    if done < len(paths):
        complain(f"{len(paths) - done} of {len(paths)} pictures could not be read: see the manifest there")
    return 0 if done == len(paths) else 1


def evaluate(args: argparse.Namespace) -> int:
    """Score a model; prints a line per metric, or a table, or JSON."""
    result = _load(args).evaluate(
        args.data, per_class=args.per_class, per_image=args.per_image, tile=parse_tile(args.tile)
    )
    if isinstance(result, dict):
        say(as_json(result) if args.json else scores(result))
        return 0
    result = result.rename_axis(index=result.index.name or "row").reset_index()
    say(as_json(records(result)) if args.json else table(result))
    return 0


def leaderboard(args: argparse.Namespace) -> int:
    """Print every model that a fit tried, best first."""
    frame = SemanticSegmentor.load(args.model, verbosity=verbosity_of(args)).leaderboard()
    say(as_json(records(frame)) if args.json else leaderboard_table(frame))
    return 0


def scores(result: dict[str, Any]) -> str:
    """A line per metric."""
    width = max(map(len, result), default=0)
    return "\n".join(f"{name:<{width}}  {value:.4f}" for name, value in result.items())


def _load(args: argparse.Namespace) -> SemanticSegmentor:
    seg = SemanticSegmentor.load(args.model, verbosity=verbosity_of(args))
    seg.image, seg.label = args.image or seg.image, args.label or seg.label
    return seg


def _is_table(data: list[str]) -> bool:
    return len(data) == 1 and data[0].lower().endswith((".csv", ".tsv"))

"""``semseg-automl demo``: the main job from pictures to a score, a leaderboard and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from semseg_automl import SemanticSegmentor
from semseg_automl.cli.arguments import verbosity_of
from semseg_automl.cli.output import as_json, complain, leaderboard_table, records, say
from semseg_automl.cli.verbs import scores
from semseg_automl.core.errors import ArtifactError, DataError
from semseg_automl.core.log import verbosity
from semseg_automl.data.datasets import make_textures
from semseg_automl.data.frame import check_table
from semseg_automl.estimator.displays import MaskDisplay
from semseg_automl.search.budget import Budget

SHARE = 0.2
"""Part of the table that is held out as test pictures."""


def demo(args: argparse.Namespace) -> int:
    """Fit, evaluate on held-out pictures, and draw some predictions; all of it in a new folder."""
    data = None if args.data is None else _read(args.data, args.image, args.label)
    Budget(args.time_limit)  # refuses what is no limit before anything is written
    _weights(args)
    folder = fresh_folder(args.path)
    if data is None:
        tell = complain if args.json else say
        tell("No --data: generating pictures with four classes.")
        data = make_textures(folder / "data")
    train, test = hold_out(data)
    train.to_csv(folder / "train.csv", index=False)
    test.to_csv(folder / "test.csv", index=False)
    seg = SemanticSegmentor(backbone=args.backbone, path=folder / "model", verbosity=verbosity_of(args)).fit(
        train, time_limit=args.time_limit
    )
    result = seg.evaluate(test)
    picture = folder / "predictions.png"
    MaskDisplay.collect(seg, test).save(picture)
    if args.json:
        rows = records(seg.leaderboard())
        say(as_json({"scores": result, "leaderboard": rows, "path": seg.path_, "picture": picture}))
        return 0
    say(f"\nScores on {len(test)} held-out pictures:\n{scores(result)}")
    say(f"\nLeaderboard:\n{leaderboard_table(seg.leaderboard())}")
    say(f"\nmodel:   {seg.path_}\ntables:  {folder / 'train.csv'}, {folder / 'test.csv'}\npicture: {picture}")
    return 0


def _weights(args: argparse.Namespace) -> None:
    """Find or fetch the weights now, so that a download does not count against the time limit."""
    from semseg_automl.models.checkpoints import resolve_weights

    with verbosity(verbosity_of(args)):
        resolve_weights(args.backbone)


def fresh_folder(path: str) -> Path:
    """Create and return the first ``run_N`` in ``path`` that is not there yet, as an absolute path.

    Raises ArtifactError where it can't be written.
    """
    root = Path(path).expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10**6):
            folder = root / f"run_{number}"
            if not folder.exists():
                folder.mkdir()
                return folder
    except OSError as error:
        raise ArtifactError(
            f"--path {path!r} can't be written: {error}. Pass --path with a folder you may write to."
        ) from error
    raise ArtifactError(f"--path {path!r} is full of runs. Pass another folder.")


def _read(path: str, image: str, label: str) -> pd.DataFrame:
    """The user's table, checked, with absolute paths; columns image, label."""
    samples = check_table(path, image=image, label=label, need_label=True, role="--data")
    return pd.DataFrame({"image": list(samples.images), "label": list(samples.masks or ())})


def hold_out(data: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table at random into training rows and a fifth of test rows, at least one.

    Raises DataError for fewer than two rows.
    """
    if len(data) < 2:
        raise DataError("--data: a demo needs at least 2 rows, one to train on and one to test.")
    order = np.random.default_rng(seed).permutation(len(data))
    count = max(1, round(SHARE * len(data)))
    return data.iloc[np.sort(order[count:])], data.iloc[np.sort(order[:count])]

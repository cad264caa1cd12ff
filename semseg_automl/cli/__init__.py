"""The console script ``semseg-automl``: parses, calls the estimator, prints.

Exit code 0: done; 1: a run that failed; 2: wrong input. What a verb needs is imported when it
runs, so that ``semseg-automl --help`` loads neither torch nor pandas.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from semseg_automl.cli.arguments import build_parser
from semseg_automl.cli.output import complain
from semseg_automl.core.errors import ArtifactError, ConfigError, DataError, SemsegError

DONE, FAILED, WRONG_INPUT = 0, 1, 2

VERBS: dict[str, tuple[str, str]] = {
    "fit": ("semseg_automl.cli.fit", "fit"),
    "predict": ("semseg_automl.cli.verbs", "predict"),
    "evaluate": ("semseg_automl.cli.verbs", "evaluate"),
    "leaderboard": ("semseg_automl.cli.verbs", "leaderboard"),
    "report": ("semseg_automl.cli.verbs", "report"),
    "export": ("semseg_automl.cli.verbs", "export"),
    "demo": ("semseg_automl.cli.demo", "demo"),
    "weights": ("semseg_automl.cli.weights", "weights"),
    "doctor": ("semseg_automl.cli.doctor", "doctor"),
    "worker": ("semseg_automl.cli.worker", "worker"),
    "completion": ("semseg_automl.cli.completion", "completion"),
}
"""Verb -> module and function; the function takes the parsed arguments and returns the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code (argparse itself exits with 2, or 0 for --help).

    Parameters
    ----------
    argv : list of str, optional
        Without the program's name; None: ``sys.argv``.
    """
    args = build_parser().parse_args(argv)
    try:
        code = _verb(args.verb)(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        complain("Interrupted.")
        return FAILED
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        return _report(error, args)


def _verb(name: str) -> Callable[[argparse.Namespace], int]:
    module, function = VERBS[name]
    run: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(module), function)
    return run


def _report(error: Exception, args: argparse.Namespace) -> int:
    """Tell what went wrong in one block on stderr and return the exit code."""
    if args.debug:
        traceback.print_exc()
    expected = isinstance(error, SemsegError)
    kind = type(error).__name__ if expected else f"unexpected {type(error).__name__}"
    lines = [f"semseg-automl {args.verb}: error ({kind})", *(str(error) or "no message").splitlines()]
    if not expected and not args.debug:
        lines.append("Run it again with --debug to see where this happened.")
    complain("\n  ".join(lines))
    return WRONG_INPUT if isinstance(error, DataError | ConfigError | ArtifactError) else FAILED

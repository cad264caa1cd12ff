"""``semseg-automl completion SHELL``: a script for bash, zsh or tcsh, made by shtab."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from semseg_automl.cli.arguments import build_parser
from semseg_automl.cli.output import as_json, say
from semseg_automl.core.optional import require

_FILES = {"train", "data", "config", "tuning_data", "output"}
_FOLDERS = {"model", "path", "output_dir", "init_from"}


def completion(args: argparse.Namespace) -> int:
    """Print the script; ``eval "$(semseg-automl completion bash)"`` switches it on."""
    shtab: Any = require("shtab", extra="completion", purpose="Shell completion")
    parser = build_parser()
    for action in _actions(parser):
        if action.dest in _FILES | _FOLDERS:
            action.complete = shtab.FILE if action.dest in _FILES else shtab.DIRECTORY  # type: ignore[attr-defined]
    script = shtab.complete(parser, shell=args.shell)
    say(as_json({"shell": args.shell, "script": script}) if args.json else script)
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _actions(child)

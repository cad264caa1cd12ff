"""``semseg-automl worker``: this process helps with a search that another one runs."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import re
from pathlib import Path

from semseg_automl.cli.arguments import verbosity_of
from semseg_automl.cli.output import as_json, say
from semseg_automl.cli.values import parse_devices
from semseg_automl.core.errors import ConfigError
from semseg_automl.core.log import verbosity
from semseg_automl.search.budget import catch_interrupt
from semseg_automl.search.join import GONE, help_search

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def worker(args: argparse.Namespace) -> int:
    """Join, train trials, leave when there are no more; prints how many. Ctrl-C hands the trial back.

    Answers 1 where the process that runs the search has died.
    """
    name = _name(args.name)
    if args.threads is not None and args.threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {args.threads}.")
    with verbosity(verbosity_of(args)), catch_interrupt() as stop:
        if args.threads is not None:
            import torch

            torch.set_num_threads(args.threads)
        helped = help_search(
            Path(args.path),
            name,
            devices="auto" if args.devices is None else parse_devices(args.devices),
            storage=args.storage,
            stop=stop,
        )
    if args.json:
        say(as_json(dataclasses.asdict(helped)))
    else:
        say(f"{helped.worker}: {helped.trials} trial{'' if helped.trials == 1 else 's'}; {helped.reason}")
    return int(helped.reason == GONE)


def _name(given: str | None) -> str:
    """The given name, or one of this machine and process."""
    if given is None:
        host = re.sub(r"[^A-Za-z0-9_.-]", "-", platform.node()) or "host"
        return f"{host.lstrip('_.-')[:40] or 'host'}-{os.getpid()}"
    if not _NAME.fullmatch(given):
        raise ConfigError(f"--name {given!r}: use letters, digits, '.', '_' and '-', at most 64.")
    return given

"""argparse with a guess at what was meant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from semseg_automl.core.errors import suggest


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints end with "Did you mean ...?" and a way to the help."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """As argparse; an unknown option is told by the verb that lacks it."""
        found, unknown = self.parse_known_args(args, namespace)
        parser = self._of(found)
        if unknown:
            options = [name for action in parser._actions for name in action.option_strings]
            guess = suggest(unknown[0].partition("=")[0], options) if unknown[0].startswith("-") else ""
            parser.error(f"unrecognized arguments: {' '.join(unknown)}.{guess}")
        if getattr(found, "verb", None) == "fit" and found.train is None and found.config is None:
            parser.error("the following arguments are required: TRAIN.csv, or --config FIT.toml")
        return found

    def error(self, message: str) -> NoReturn:
        """Usage, message and where the help is on stderr; exit code 2."""
        super().error(f"{message.rstrip()}\nsee: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            text = f"invalid choice: {value!r} (choose from {', '.join(known)}).{suggest(value, known)}"
            raise argparse.ArgumentError(action, text)

    def _of(self, found: argparse.Namespace) -> argparse.ArgumentParser:
        """The parser of the verb (and action) that was given."""
        parser: argparse.ArgumentParser = self
        for dest in ("verb", "action"):
            for action in parser._actions:
                if isinstance(action, argparse._SubParsersAction) and action.dest == dest:
                    parser = action.choices.get(getattr(found, dest, None) or "", parser)
        return parser

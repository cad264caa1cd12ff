"""Words of the command line as values: hyperparameters, devices, tiles, lists."""

from __future__ import annotations

import ast
import json
from typing import Any

from semseg_automl.core.errors import ConfigError

_WORDS = {"none": None, "null": None, "true": True, "false": False}
_BRACKETS = {"[": "]", "(": ")", "{": "}"}


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
            raise ConfigError(
                f"--hyperparameters {text!r} is no JSON object: {error}. "
                "Write it as '{\"rank\": [4, 8]}', or as rank=[4,8]."
            ) from error
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


def parse_words(text: str | None, option: str) -> list[str] | None:
    """``sky, road`` as a list of names.

    Raises
    ------
    ConfigError
        There is no name.
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ConfigError(f"{option} {text!r} names nothing. Write names with commas, such as a,b.")
    return words


def parse_number(text: str) -> str | int:
    """``2`` is a number, all else is left for the estimator to judge."""
    return int(text) if text.isdigit() else text


def parse_raw_value(text: str) -> Any:
    """``255``, ``(0,0,0)``, ``none`` or ``auto``."""
    return _value(text)


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

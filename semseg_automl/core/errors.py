"""The errors of the library: one root, one child per kind of mistake.

Each child also inherits from the built-in that scripts already catch, so
``except ValueError`` keeps working. Messages name the argument, the rule, the
value that was found and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SemsegError(Exception):
    """Root of every error that this library raises on purpose."""


class DataError(SemsegError, ValueError):
    """A table, picture or mask is wrong; every complaint is gathered into one message."""


class ConfigError(SemsegError, ValueError):
    """An argument or hyperparameter is unknown or out of range."""


class ArtifactError(SemsegError, OSError):
    """A model folder can't be written, read or trusted."""


class FormatError(ArtifactError):
    """A saved model of a format, newer or foreign, that this version does not read."""


class ChecksumError(ArtifactError):
    """A file of a saved model holds other bytes than were saved."""


class TensorError(ArtifactError):
    """A saved model lacks a tensor, holds an unknown one, or one of another shape than it needs."""


class ProbeError(ArtifactError):
    """A loaded model does not compute what it computed when it was saved."""


class WeightsError(SemsegError, FileNotFoundError):
    """Backbone weights could not be found, fetched or verified."""

    def __str__(self) -> str:  # FileNotFoundError would print an errno tuple
        return str(self.args[0]) if self.args else ""


class BackboneError(ArtifactError, WeightsError):
    """The backbone that a saved model was trained on is absent, or what was found is another one."""


class BudgetError(SemsegError, TimeoutError):
    """Neither the time nor the number of trials left room for a single training.

    A short ``time_limit`` alone does not lead here: ``fit`` trains at least one model, however short it is.
    """


class TrainingError(SemsegError, RuntimeError):
    """Every training run failed; the message carries the first cause."""


class DeviceMemoryError(SemsegError, MemoryError):
    """A prediction needs more memory than the device has, even for one picture at a time."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest known name, or an empty string."""
    folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.5)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ConfigError:
    """Build the ConfigError for a name that a registry does not hold."""
    names = sorted(known)
    return ConfigError(f"Unknown {kind} {name!r}.{suggest(str(name), names)} Known: {', '.join(names)}.")

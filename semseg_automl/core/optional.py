"""Optional packages: imported when needed, with the pip line that fixes their absence."""

from __future__ import annotations

import importlib
from types import ModuleType

from semseg_automl.core.errors import ConfigError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import ``module`` or raise a ConfigError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{purpose} needs the package {module!r}, which can't be imported ({error}). "
            f"Install it with: pip install 'semseg_automl[{extra}]'"
        ) from error

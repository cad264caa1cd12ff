"""Fine-tune the Segment Anything Model on your own pictures: classes, masks, one call.

>>> from semseg_automl import SemanticSegmentor
>>> seg = SemanticSegmentor().fit("train.csv", time_limit=600)  # doctest: +SKIP
>>> masks = seg.predict("test.csv")  # doctest: +SKIP

Public names are loaded on first use, so that importing the package costs next to nothing and
loads neither torch nor lightning nor optuna.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semseg_automl import datasets, displays, space
    from semseg_automl.core.errors import SemsegError
    from semseg_automl.estimator.segmentor import SemanticSegmentor

__version__ = "0.1.0"

__all__ = ["SemanticSegmentor", "SemsegError", "__version__", "datasets", "displays", "space"]

_HOMES: dict[str, tuple[str, str | None]] = {
    "SemanticSegmentor": ("semseg_automl.estimator.segmentor", "SemanticSegmentor"),
    "SemsegError": ("semseg_automl.core.errors", "SemsegError"),
    "datasets": ("semseg_automl.datasets", None),
    "displays": ("semseg_automl.displays", None),
    "space": ("semseg_automl.space", None),
}
"""Public name -> module and attribute (None: the module itself)."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    loaded: Any = importlib.import_module(module)
    value = loaded if attribute is None else getattr(loaded, attribute)
    globals()[name] = value  # the next access doesn't come here
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

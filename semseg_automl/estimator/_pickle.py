"""Pickling a segmentor: its parameters, and the fitted model as the bytes of its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from semseg_automl.core.log import verbosity as logging_at
from semseg_automl.estimator import _store

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor


def reduce(seg: SemanticSegmentor) -> tuple[Any, ...]:
    """See ``SemanticSegmentor.__reduce__``."""
    parameters = seg.get_params(deep=False)
    rest = {k: v for k, v in vars(seg).items() if k not in {*parameters, "_model", "_predictor"}}
    packed = _store.pack(seg._model) if seg.__sklearn_is_fitted__() else None
    return rebuild, (type(seg), parameters, rest, packed)


def rebuild(kind: type, parameters: dict[str, Any], rest: dict[str, Any], packed: Any) -> SemanticSegmentor:
    """The inverse of :func:`reduce`."""
    made: SemanticSegmentor = kind(**parameters)
    for name, value in rest.items():
        setattr(made, name, value)
    if packed is not None:
        with logging_at(min(made.verbosity, 1)):
            made._model = _store.unpack(*packed)
    return made

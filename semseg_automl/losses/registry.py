"""The losses by name, and which one a problem gets by default."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from semseg_automl.core.errors import unknown_name
from semseg_automl.losses import functional
from semseg_automl.losses.cl_dice import ce_cl_dice
from semseg_automl.losses.lovasz import lovasz


class Loss(Protocol):
    """What every registered loss is: see :mod:`semseg_automl.losses.functional` for the shapes."""

    def __call__(self, logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
        """Scalar loss of (B, C, H, W) logits against (B, H, W) class indices."""


LOSSES: dict[str, Loss] = {
    "structure": functional.structure,
    "structure_compat": functional.structure_compat,
    "ce_dice": functional.ce_dice,
    "bce_dice": functional.bce_dice,
    "cross_entropy": functional.cross_entropy,
    "focal": functional.focal,
    "focal_dice": functional.focal_dice,
    "balanced_bce": functional.balanced_bce,
    "lovasz": lovasz,
    "cl_dice": ce_cl_dice,
}

ONE_VS_REST = frozenset({"structure", "structure_compat", "bce_dice"})
"""Losses that take a sigmoid of each class's logit, whatever the number of classes."""

DEFAULT_LOSS: dict[str, str] = {"binary": "structure", "multiclass": "ce_dice"}


def resolve_loss(name: str, problem_type: str) -> Loss:
    """Return the loss of that name; "auto" is the problem type's default.

    Raises
    ------
    ConfigError
        If the name or the problem type ("binary", "multiclass") is unknown.
    """
    if problem_type not in DEFAULT_LOSS:
        raise unknown_name("problem_type", problem_type, DEFAULT_LOSS)
    chosen = DEFAULT_LOSS[problem_type] if name == "auto" else name
    if chosen not in LOSSES:
        raise unknown_name("loss", name, [*LOSSES, "auto"])
    return LOSSES[chosen]

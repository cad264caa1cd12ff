"""What a training step minimises: the task's loss and the adapters' balance loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.core.config import RunConfig
from semseg_automl.losses.functional import against_the_rest
from semseg_automl.losses.matching import matching_loss
from semseg_automl.losses.registry import ONE_VS_REST, resolve_loss
from semseg_automl.models.decoder import MaskClassificationHead
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft.inject import collect_balance_loss

BALANCE_WEIGHTS = {"binary": 1.0, "multiclass": 2.0}  # Zhong et al., ICLR 2024


class StepLosses:
    """The losses of (B, 3, H, W) images against (B, H, W) class indices.

    Parameters
    ----------
    segmenter
        The network.
    config
        Loss and balance loss are read from it.
    problem_type
        "binary" or "multiclass".
    class_weights
        Weights of the classes in the task's loss, or None.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        config: RunConfig,
        problem_type: str,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.loss = resolve_loss(config.optim.loss, problem_type)
        scored = isinstance(segmenter.decoder, MaskClassificationHead)
        self.matched = config.optim.loss == "auto" and scored
        # that head's logits are logarithms of scores: their softmax has a meaning, their sigmoids have none
        self.odds = scored and problem_type == "multiclass" and config.optim.loss in ONE_VS_REST
        weight = config.optim.balance_weight
        weight = BALANCE_WEIGHTS[problem_type] if weight == "auto" else float(weight)
        self.balance_weight = weight * config.optim.balance_scale
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)

    def __call__(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """The task's loss and the total."""
        task = self.task_loss(images, masks)
        return task, task + self.balance_weight * collect_balance_loss(self.segmenter.adapters)

    def task_loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """The task's loss.

        Queries of a mask_classification head are matched with the masks unless a loss is named.
        """
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(images.device)  # once: later there is nothing to do
        weights = self.class_weights
        head = self.segmenter.decoder
        if self.matched and isinstance(head, MaskClassificationHead):
            queries, classes = head.queries(self.segmenter.encoder(images))
            return matching_loss(queries, classes, masks, class_weights=weights)
        logits = self.segmenter(images)
        # (B, K, H/4, W/4) -> (B, K, H, W)
        logits = F.interpolate(logits.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False)
        logits = against_the_rest(logits) if self.odds else logits
        return self.loss(logits, masks, class_weights=weights)

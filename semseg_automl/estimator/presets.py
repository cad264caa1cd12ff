"""What each preset changes: plain dicts of hyperparameters over the defaults of ``core.config``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Hyperparameters that a preset fixes, and whether it searches.

    ``tta``: flips at prediction. ``size_factor``: on the picture size that the planner would choose.
    ``finish_share``: share of a search's time that continues its best trial. ``max_epochs`` of a
    preset that searches counts only where no time limit does.
    """

    hyperparameters: dict[str, Any] = field(default_factory=dict)
    search: bool = True
    tta: bool = False
    size_factor: float = 1.0
    finish_share: float = 0.15


PRESETS: dict[str, Preset] = {
    "medium_quality": Preset(tta=True),
    "high_quality": Preset(hyperparameters={"augment": "strong"}, tta=True, size_factor=1.25),
    "best_quality": Preset(
        hyperparameters={"augment": "strong", "max_epochs": 60}, tta=True, size_factor=1.5, finish_share=0.3
    ),
    "fast_inference": Preset(hyperparameters={"image_size": 320, "crop_size": 320}),
    # Zhong et al., ICLR 2024, section 4 and appendix; nothing of it is searched
    "conv_lora_paper": Preset(
        hyperparameters={
            "adapter": "conv_lora",
            "num_experts": 8,  # of scales 1 to 8, at q, k and v, as by default
            "routing": "learned",
            "top_k": 1,
            "balance_weight": "auto",  # 1.0 binary, 2.0 multi-class
            "optimizer": "adam",
            "learning_rate": 1e-4,
            "decoder_learning_rate": 1e-4,
            "weight_decay": 1e-4,
            "warmup": 0.0,
            "schedule": "constant",
            "ema_decay": 0.0,
            "batch_size": 4,
            "augment": "light",  # horizontal flips
            "crop_size": None,
            "small_share": 0.0,
            "max_epochs": 30,
            "loss": "structure",
            "rank": 3,
            "alpha": 32.0,
        },
        search=False,
    ),
}
DEFAULT_PRESET = "medium_quality"

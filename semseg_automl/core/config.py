"""Every hyperparameter of one model, as frozen dataclasses: the currency between rooms.

The user's flat names (``hyperparameters={"rank": 8}``) are the field names below, each of
which occurs exactly once; :meth:`RunConfig.replace` puts them where they belong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from semseg_automl.core.errors import unknown_name

ImageSize = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """How the encoder is adapted (Zhong et al., ICLR 2024, and our defaults for what it leaves open).

    ``adapter`` is a name of peft.registry. ``rank`` is that of the update, the width of a bottleneck or
    the number of prompts; alpha / rank is the scale of the update, with ``rslora`` alpha / sqrt(rank)
    (of LoRA and its children).
    ``scales=None`` means 1..num_experts.
    ``routing``: "dense" (all experts, by a softmax gate), "learned" (the ``top_k`` largest of it, chosen with
    noise, as in the paper), "compat" (AutoGluon's released behaviour). ``gate_scope``/``window_padding``:
    "image" or "window". ``nonlinearity``: "none" or "gelu". ``qkv``: "fused" or "separate".
    ``targets``: some of "q", "k", "v", "proj", "mlp"; None means the method's own places.
    ``placement``: "all", "last_K" or "global". ``prompt_depth`` (vpt): "deep" or "shallow".
    ``side_checkpoint`` (lst): a file of ViT-Tiny weights.
    """

    adapter: str = "conv_lora"
    rank: int = 8
    alpha: float = 32.0
    num_experts: int = 8
    scales: tuple[int, ...] | None = None
    top_k: int = 1
    routing: str = "dense"
    gate_scope: str = "image"
    window_padding: str = "image"
    nonlinearity: str = "none"
    rslora: bool = False
    qkv: str = "fused"
    targets: tuple[str, ...] | None = None
    placement: str = "all"
    prompt_depth: str = "deep"
    side_checkpoint: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the network is. ``image_size``: long side in pixels, or (H, W)."""

    backbone: str = "mobile_sam"
    head: str = "semantic"
    num_queries: int = 16
    image_size: ImageSize = 512
    gradient_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How it is trained. Learning rates are peaks; ``warmup`` is a fraction of the run.

    ``lora_plus_ratio``: rate of an update's second matrix over that of its first (LoRA+).
    ``loss``: "auto" (binary: structure loss; multiclass: cross-entropy + Dice; for the head
    mask_classification losses.matching) or a name of losses.registry. ``class_weights``: "none",
    "balanced" or "sqrt" (losses.weights). ``crop_size``: side (or (H, W)) of the training crops in
    model pixels, None for whole pictures. ``class_crops``: share of the crops that are laid around a
    pixel of a class, rare classes first (data.class_crops). ``small_share``: share of the run, from its
    start, that trains on crops shrunk to ``small_scale``. ``balance_weight="auto"``: 1.0 binary, 2.0
    multiclass (the paper's values). ``balance_scale``: further factor of the balance loss (it is added
    times balance_weight * balance_scale); 0.01 as in the released code, the paper doesn't print it.
    """

    learning_rate: float = 1e-3
    decoder_learning_rate: float = 5e-4
    lora_plus_ratio: float = 1.0
    optimizer: str = "adamw"
    weight_decay: float = 1e-4
    warmup: float = 0.05
    schedule: str = "cosine"
    batch_size: int = 4
    micro_batch_size: int | str = "auto"
    max_epochs: int = 30
    loss: str = "auto"
    class_weights: str = "none"
    augment: str = "medium"
    crop_size: ImageSize | None = None
    class_crops: float = 0.0
    small_share: float = 0.0
    small_scale: float = 0.625
    balance_weight: float | str = "auto"
    balance_scale: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float = 0.99


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All hyperparameters of one model: adapter, network, optimisation."""

    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def flat(self) -> dict[str, Any]:
        """All hyperparameters under the user's flat names."""
        parts = (self.adapter, self.model, self.optim)
        return {f.name: getattr(p, f.name) for p in parts for f in dataclasses.fields(p)}

    def replace(self, **changes: Any) -> RunConfig:
        """Return a copy with flat-named hyperparameters changed; unknown names raise ConfigError."""
        groups: dict[str, dict[str, Any]] = {"adapter": {}, "model": {}, "optim": {}}
        for name, value in changes.items():
            groups[group_of(name)][name] = tuple(value) if isinstance(value, list) else value
        return RunConfig(
            adapter=dataclasses.replace(self.adapter, **groups["adapter"]),
            model=dataclasses.replace(self.model, **groups["model"]),
            optim=dataclasses.replace(self.optim, **groups["optim"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Flat JSON-ready dict (tuples become lists)."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in self.flat().items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunConfig:
        """Inverse of :meth:`to_json`."""
        return cls().replace(**values)


_PARTS: dict[str, type] = {"adapter": AdapterConfig, "model": ModelConfig, "optim": OptimConfig}
_GROUPS: dict[str, str] = {f.name: part for part, cls in _PARTS.items() for f in dataclasses.fields(cls)}


def hyperparameter_names() -> tuple[str, ...]:
    """Every flat hyperparameter name, in order."""
    return tuple(_GROUPS)


def group_of(name: str) -> str:
    """Name of the dataclass ("adapter", "model", "optim") that holds a hyperparameter."""
    if name not in _GROUPS:
        raise unknown_name("hyperparameter", name, _GROUPS)
    return _GROUPS[name]

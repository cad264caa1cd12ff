"""The methods that adapt an encoder, in one dict, and the rules for their hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError, unknown_name
from semseg_automl.core.placement import last_blocks
from semseg_automl.core.reads import READS
from semseg_automl.peft.adapter import SerialAdapterLayer
from semseg_automl.peft.base import QKV, AdapterLayer, Site
from semseg_automl.peft.bitfit import BitFitLayer
from semseg_automl.peft.companion import Companion, Outline
from semseg_automl.peft.conv_lora import ConvLoRALayer
from semseg_automl.peft.lora import LoRALayer
from semseg_automl.peft.lst import build_ladder
from semseg_automl.peft.mona import MonaLayer
from semseg_automl.peft.multi_scale_lora import MultiScaleLoRALayer
from semseg_automl.peft.parallel_adapter import build_parallel
from semseg_automl.peft.sam_adapter import build_sam_adapter
from semseg_automl.peft.ssf import SSFLayer
from semseg_automl.peft.vpt import build_prompts, connect_prompts, prompted_sites

Build = Callable[[nn.Linear, Site, AdapterConfig, torch.Generator], AdapterLayer]
BuildCompanion = Callable[
    [Outline, Sequence[Site], Sequence[Site], AdapterConfig, torch.Generator], Companion
]


@dataclass(frozen=True, kw_only=True)
class AdapterMethod:
    """One method: how to build what it trains, and where.

    Attributes
    ----------
    build : builds the layer at one site; None for a method without layers.
    companion : builds the network beside the encoder instead.
    whole : the encoder's own parameters are trained instead (:mod:`semseg_automl.peft.full`).
    roles : roles of site (:attr:`Site.role`) where its layers can stand.
    targets : the places that ``targets=None`` means; empty where there is no choice.
    narrow : picks among the sites of placement and roles.
    connect : called with all layers, for those that work in pairs.
    """

    build: Build | None = None
    companion: BuildCompanion | None = None
    whole: bool = False
    roles: tuple[str, ...] = ("qkv",)
    targets: tuple[str, ...] = ()
    uses_experts: bool = False
    narrow: Callable[[Sequence[Site], AdapterConfig], list[Site]] | None = None
    connect: Callable[[Sequence[AdapterLayer]], None] | None = None
    source: str = ""


EVERY_LINEAR = ("qkv", "proj", "mlp_in", "mlp_out")
OUTPUTS = ("proj", "mlp_out")
PLACES = (*QKV, "proj", "mlp")
"""What ``targets`` can name: parts of the qkv projection, the attention's output, the MLP's Linears."""

ADAPTERS: dict[str, AdapterMethod] = {
    "decoder_only": AdapterMethod(roles=(), source="the paper's first baseline: frozen encoder"),
    "lora": AdapterMethod(build=LoRALayer, roles=EVERY_LINEAR, targets=QKV, source="Hu et al., ICLR 2022"),
    "conv_lora": AdapterMethod(
        build=ConvLoRALayer,
        roles=EVERY_LINEAR,
        targets=QKV,
        uses_experts=True,
        source="Zhong et al., ICLR 2024",
    ),
    "multi_scale_lora": AdapterMethod(
        build=MultiScaleLoRALayer,
        roles=EVERY_LINEAR,
        targets=QKV,
        uses_experts=True,
        source="Zhong et al., ICLR 2024, without the gate",
    ),
    "bitfit": AdapterMethod(
        build=BitFitLayer, roles=EVERY_LINEAR, targets=PLACES, source="Ben Zaken et al., ACL 2022"
    ),
    "ssf": AdapterMethod(
        build=SSFLayer, roles=EVERY_LINEAR, targets=PLACES, source="Lian et al., NeurIPS 2022"
    ),
    "adapter": AdapterMethod(
        build=SerialAdapterLayer, roles=OUTPUTS, targets=("proj", "mlp"), source="Houlsby et al., ICML 2019"
    ),
    "parallel_adapter": AdapterMethod(
        build=build_parallel, roles=("mlp_in", "mlp_out"), targets=("mlp",), source="He et al., ICLR 2022"
    ),
    "mona": AdapterMethod(
        build=MonaLayer, roles=OUTPUTS, targets=("proj", "mlp"), source="Yin et al., CVPR 2025"
    ),
    "vpt": AdapterMethod(
        build=build_prompts,
        roles=("qkv", "proj"),
        narrow=prompted_sites,
        connect=connect_prompts,
        source="Jia et al., ECCV 2022",
    ),
    "sam_adapter": AdapterMethod(companion=build_sam_adapter, source="Chen et al., ICCV workshops 2023"),
    "lst": AdapterMethod(companion=build_ladder, source="Sung et al., NeurIPS 2022"),
    "full": AdapterMethod(whole=True, roles=EVERY_LINEAR, source="full fine-tuning"),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "routing": ("learned", "dense", "compat"),
    "gate_scope": ("image", "window"),
    "window_padding": ("image", "window"),
    "nonlinearity": ("none", "gelu"),
    "qkv": ("fused", "separate"),
    "prompt_depth": ("deep", "shallow"),
}


def resolve_method(config: AdapterConfig) -> AdapterMethod:
    """Return the method that ``config`` names after checking every hyperparameter of the adapter.

    Raises
    ------
    ConfigError
        For an unknown name or a value out of its range.
    """
    if config.adapter not in ADAPTERS:
        raise unknown_name("adapter", config.adapter, ADAPTERS)
    for field, choices in CHOICES.items():
        if getattr(config, field) not in choices:
            raise unknown_name(field, getattr(config, field), choices)
    if config.rank < 1 or not config.alpha > 0:
        raise ConfigError(f"rank must be 1 or more and alpha positive, not {config.rank}, {config.alpha}.")
    last_blocks(config.placement)
    method = ADAPTERS[config.adapter]
    _check_targets(config, method)
    if config.side_checkpoint is not None and config.adapter != "lst":
        raise ConfigError(f"side_checkpoint belongs to adapter='lst', not to {config.adapter!r}.")
    if method.uses_experts:
        _check_experts(config, gated="routing" in READS[config.adapter])
    return method


def role_has(role: str, targets: Sequence[str]) -> bool:
    """Whether any of ``targets`` is at sites of a role."""
    names = QKV if role == "qkv" else (role.split("_")[0],)
    return any(name in targets for name in names)


def _check_targets(config: AdapterConfig, method: AdapterMethod) -> None:
    if config.targets is None:
        return
    for target in config.targets:
        if target not in PLACES:
            raise unknown_name("target", target, PLACES)
    if not config.targets or len(set(config.targets)) != len(config.targets):
        raise ConfigError(f"targets must be some of {', '.join(PLACES)}, each once, not {config.targets}.")
    if not method.targets:
        raise ConfigError(
            f"adapter={config.adapter!r} has no choice of targets: use placement, and leave targets=None."
        )
    there = [name for name in PLACES if any(role_has(role, (name,)) for role in method.roles)]
    missing = [target for target in config.targets if target not in there]
    if missing:
        raise ConfigError(
            f"adapter={config.adapter!r} can't be at {', '.join(missing)}: its targets are "
            f"{', '.join(there)}."
        )


def _check_experts(config: AdapterConfig, *, gated: bool) -> None:
    if config.num_experts < 1:
        raise ConfigError(f"num_experts must be at least 1, not {config.num_experts}.")
    chooses = gated and config.routing != "dense"
    if chooses and not 1 <= config.top_k <= config.num_experts:
        raise ConfigError(f"top_k must lie in 1..num_experts = {config.num_experts}, not {config.top_k}.")
    scales = config.scales
    if scales is not None and not _valid_scales(scales, config.num_experts):
        raise ConfigError(f"scales must be num_experts = {config.num_experts} integers from 1, not {scales}.")
    if gated and config.routing == "compat" and config.qkv != "fused":
        raise ConfigError(
            "routing='compat' is the released code, which adapts q, k, v together: use qkv='fused'."
        )


def _valid_scales(scales: tuple[int, ...], num_experts: int) -> bool:
    return len(scales) == num_experts and all(isinstance(s, int) and s >= 1 for s in scales)

"""Putting adapters into an encoder, and the balance loss over all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.core.placement import last_blocks
from semseg_automl.peft.base import Adapter, AdapterLayer, Site
from semseg_automl.peft.companion import outline_of
from semseg_automl.peft.full import is_tuned_whole, tune_whole
from semseg_automl.peft.registry import AdapterMethod, resolve_method, role_has


def inject(
    encoder: nn.Module, sites: Sequence[Site], config: AdapterConfig, seed: int = 0
) -> Sequence[Adapter]:
    """Freeze ``encoder`` and replace its linear layers at the configured sites by adapter layers.

    "sam_adapter" and "lst" replace none and become the encoder's ``companion``; "full" replaces none
    and trains the encoder, or the blocks of the placement, instead.

    Initial values come from ``seed`` alone, whatever the state of the global generators.

    Parameters
    ----------
    encoder : nn.Module
        Changed in place: every parameter is frozen but those of parts that are marked as trained whole
        (:func:`semseg_automl.peft.full.tune_whole`), then layers are replaced.
    sites : sequence of Site
        What the encoder offers, in the order of its blocks.
    config : AdapterConfig
    seed : int

    Returns
    -------
    list of Adapter
        In the order of ``sites``; the companion alone where the method is one; empty for "decoder_only"
        and "full".

    Raises
    ------
    ConfigError
        Bad hyperparameters, a placement that matches no site, a site that is no linear layer, or an
        encoder that has no place for the method.
    """
    method = resolve_method(config)
    if config.targets is None and method.targets:
        config = dataclasses.replace(config, targets=method.targets)
    encoder.requires_grad_(False)
    for part in encoder.modules():
        if is_tuned_whole(part):  # a part without pretrained weights
            part.requires_grad_(True)
    if not method.roles:
        return []
    chosen = _chosen(sites, config, method)
    generator = torch.Generator().manual_seed(seed)
    if method.whole:
        tune_whole(encoder, None if config.placement == "all" else chosen)
        return []
    if method.companion is not None:
        companion = method.companion(outline_of(encoder, config.adapter), sites, chosen, config, generator)
        like = next(encoder.parameters())
        companion.to(device=like.device, dtype=like.dtype).train(encoder.training)
        encoder.companion = companion
        return [companion]
    return _replace_layers(encoder, chosen, config, method, generator)


def _chosen(sites: Sequence[Site], config: AdapterConfig, method: AdapterMethod) -> list[Site]:
    """Sites of the placement at which the method works with these targets; ConfigError if there are none."""
    chosen = [site for site in select_sites(sites, config.placement) if site.role in method.roles]
    if config.targets is not None:
        chosen = [site for site in chosen if role_has(site.role, config.targets)]
    if not chosen:
        raise ConfigError(
            f"adapter={config.adapter!r} found nothing to adapt with placement={config.placement!r}: the "
            f"encoder offers {len(sites)} sites ({sum(not s.window for s in sites)} with global attention). "
            "Use placement='all', or adapter='decoder_only' to leave the encoder as it is."
        )
    return chosen if method.narrow is None else method.narrow(chosen, config)


def _replace_layers(
    encoder: nn.Module,
    chosen: Sequence[Site],
    config: AdapterConfig,
    method: AdapterMethod,
    generator: torch.Generator,
) -> list[AdapterLayer]:
    layers: list[AdapterLayer] = []
    if method.build is None:
        return layers
    for site in chosen:
        base = _linear_at(encoder, site)
        layer = method.build(base, site, config, generator)
        layer.to(device=base.weight.device, dtype=base.weight.dtype).train(base.training)
        _put(encoder, site.module_path, layer)
        layers.append(layer)
    if method.connect is not None:
        method.connect(layers)
    return layers


def merge_adapters(encoder: nn.Module) -> int:
    """Replace every adapter layer inside ``encoder`` by its merged linear layer; returns how many.

    0 where there are none ("decoder_only", "full"). The outputs stay the same up to rounding.

    Raises
    ------
    ConfigError
        For a method that can't be merged; nothing is changed then.
    """
    found = {path: m for path, m in encoder.named_modules() if isinstance(m, Adapter)}
    merged = {path: layer.merge() for path, layer in found.items()}
    for path, linear in merged.items():
        _put(encoder, path, linear)
    return len(merged)


def select_sites(sites: Iterable[Site], placement: str) -> list[Site]:
    """Sites of a placement: "all", "global" (no windows), "last_K" (the last K blocks; all if fewer)."""
    last = last_blocks(placement)
    if last is not None:
        return [site for site in sites if site.block >= site.n_blocks - last]
    return [site for site in sites if site.window == 0 or placement == "all"]


def collect_balance_loss(layers: Sequence[Adapter]) -> Tensor:
    """Mean over layers of cv^2(importance) + cv^2(load) of the last forward pass; 0 where nothing set one."""
    losses = [layer.aux_loss for layer in layers if layer.aux_loss is not None]
    if not losses:
        return torch.zeros((), device=next(layers[0].parameters()).device if layers else None)
    return torch.stack(losses).mean()


def _put(encoder: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(encoder.get_submodule(parent), name, module)


def _linear_at(encoder: nn.Module, site: Site) -> nn.Linear:
    try:
        module = encoder.get_submodule(site.module_path)
    except AttributeError as error:
        raise ConfigError(f"Site {site.name!r}: the encoder has no module {site.module_path!r}.") from error
    if isinstance(module, AdapterLayer):
        raise ConfigError(f"Site {site.name!r} is adapted already; inject works on a bare encoder.")
    if not isinstance(module, nn.Linear):
        raise ConfigError(
            f"Site {site.name!r}: {site.module_path!r} is a {type(module).__name__}, no nn.Linear."
        )
    return module

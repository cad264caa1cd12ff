"""What of an encoder has to be stored: the adapters' parameters, by name, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from semseg_automl.core.errors import ArtifactError
from semseg_automl.peft.base import Adapter
from semseg_automl.peft.full import is_tuned_whole


def adapter_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Every adapter parameter inside ``module`` under its dotted name, in the order of the modules.

    Parameters of parts that are trained whole are among them: with adapter="full" the encoder or its
    blocks, and with any adapter the parts of an encoder that have no pretrained weights.
    """
    found: dict[str, nn.Parameter] = {}
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(part, Adapter):
            found.update({prefix + name: value for name, value in part.trainable_parameters()})
        elif is_tuned_whole(part):
            found.update({prefix + name: value for name, value in part.named_parameters()})
    return found


def fast_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The second matrices of low-rank updates inside ``module``, which LoRA+ trains at a higher rate.

    Source: Hayou, Ghosh, Yu, "LoRA+", ICML 2024. Empty for methods without one.
    """
    adapters = [part for part in module.modules() if isinstance(part, Adapter)]
    return [value for part in adapters for name, value in part.trainable_parameters() if name in part.fast]


def adapter_state(encoder: nn.Module) -> dict[str, Tensor]:
    """Detached CPU copies of the adapters' parameters, no frozen weights; empty for a bare encoder.

    With adapter="full" that is the whole encoder (see :mod:`semseg_automl.peft.full` for the sizes).
    """
    return {name: p.detach().cpu().clone() for name, p in adapter_parameters(encoder).items()}


def load_adapter_state(encoder: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy stored values into an encoder with the same adapters; nothing is changed when anything is wrong.

    Raises
    ------
    ArtifactError
        Listing every missing, unknown and misshapen tensor.
    """
    wanted = adapter_parameters(encoder)
    complaints = [f"missing: {name}" for name in wanted if name not in state]
    complaints += [f"unknown: {name}" for name in state if name not in wanted]
    complaints += [
        f"shape of {name}: stored {tuple(state[name].shape)}, needed {tuple(p.shape)}"
        for name, p in wanted.items()
        if name in state and state[name].shape != p.shape
    ]
    if complaints:
        more = f"; and {len(complaints) - 6} more" if len(complaints) > 6 else ""
        raise ArtifactError(
            f"The stored adapter does not fit this encoder ({'; '.join(complaints[:6])}{more}). "
            "It was made with another backbone or other adapter hyperparameters."
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(state[name])


def count_parameters(module: nn.Module) -> dict[str, int]:
    """Number of parameters by part.

    Returns
    -------
    dict
        "total", "frozen", "trainable", "adapters", and "trainable.CHILD" for every direct child that
        trains something. "adapters" is all that :func:`adapter_parameters` names and that trains: what
        methods add; with adapter="full" the encoder; and with any method, "decoder_only" too, the parts of
        an encoder without pretrained weights. Those are the neck of a timm ViT, and the convolution for
        channels beyond the first three, which starts at 0.
    """
    parameters = list(module.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    total = sum(p.numel() for p in parameters)
    counts = {
        "total": total,
        "frozen": total - trainable,
        "trainable": trainable,
        "adapters": sum(p.numel() for p in adapter_parameters(module).values() if p.requires_grad),
    }
    for name, child in module.named_children():
        number = sum(p.numel() for p in child.parameters() if p.requires_grad)
        if number:
            counts[f"trainable.{name}"] = number
    return counts

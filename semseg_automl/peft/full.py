"""Full fine-tuning: the encoder itself is trained, no layer is added.

(The same mark serves parts of an encoder that have no pretrained weights and are trained with every
adapter: the neck of :mod:`semseg_automl.models.encoders.timm_vit`.)

The upper baseline of the papers on adapters. There is no formula beyond "all of it": with
placement="all" every parameter of the encoder, patch embedding, positions and neck included; with
"last_K" or "global" every parameter of those blocks (attention, norms, MLP, local convolutions). TinyViT's
BatchNorms stay folded into their convolutions, so their statistics don't move. ``rank`` and ``alpha`` have
no effect, nothing can be switched off or merged.

Consequence for what is saved: a model's folder holds the trained tensors in float32, so it grows from
adapters of about a megabyte to the size of the encoder, 4 bytes a parameter: some 23 MB for mobile_sam,
360 MB for sam_vit_b, 1.2 GB for sam_vit_l, 2.5 GB for sam_vit_h. The optimiser's state, the weight average
and the best state so far take several times that in memory. Its learning rate is that of the adapters
(``learning_rate``), whose default of 1e-3 is high for pretrained weights: 1e-5 to 1e-4 is usual.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from semseg_automl.peft.base import Site

TUNED = "tuned_whole"


def tune_whole(encoder: nn.Module, sites: Sequence[Site] | None) -> None:
    """Train the blocks of ``sites``, or all of ``encoder`` for None, and mark them as trained whole.

    A block is the smallest module that holds all Linears of its sites' block number. The parameters get
    memory of their own, so that training never changes the tensors that the encoder was loaded from.
    """
    if sites is None:
        modules = [encoder]
    else:
        paths = {block: _common_path([s for s in sites if s.block == block]) for block in _blocks(sites)}
        modules = [encoder.get_submodule(path) for path in paths.values()]
    for module in modules:
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()  # the weights as read may be these very tensors
        module.requires_grad_(True)
        setattr(module, TUNED, True)


def is_tuned_whole(module: nn.Module) -> bool:
    """True for a module that :func:`tune_whole` marked."""
    return bool(getattr(module, TUNED, False))


def _blocks(sites: Sequence[Site]) -> list[int]:
    return sorted({site.block for site in sites})


def _common_path(sites: Sequence[Site]) -> str:
    """Dotted path of the smallest module around all of ``sites``' linear layers."""
    parents = [site.module_path.split(".")[:-1] for site in sites]
    levels = zip(*parents, strict=False)
    return ".".join(names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, levels))

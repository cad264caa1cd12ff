"""From a published SAM state dict to our modules.

Its keys start with ``image_encoder.``, ``prompt_encoder.`` and ``mask_decoder.``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from semseg_automl.core.errors import WeightsError
from semseg_automl.models.decoder import MaskClassificationHead, SemanticHead

# keys of a published checkpoint that have no place in a model without prompts and mask quality
UNUSED_PREFIXES = (
    "prompt_encoder.point_embeddings.",
    "prompt_encoder.not_a_point_embed.",
    "prompt_encoder.mask_downscaling.",
    "mask_decoder.iou_prediction_head.",
)
_TOKEN_NOISE = 0.05  # in standard deviations of the copied tensor, so that copies can part
_QUERY_NOISE = 1.0
"""The same for queries that are matched: four groups of near copies answer alike, and matching hardly parts
them. camvid, 220 steps, two seeds: validation mean IoU 0.473 instead of 0.391 (``benchmarks/README.md``)."""


def encoder_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's part of a published state dict, float32, without its prefix."""
    prefix = "image_encoder."
    state = {k.removeprefix(prefix): _to_float(v) for k, v in tensors.items() if k.startswith(prefix)}
    if not state:
        raise WeightsError("The weights hold no key that starts with 'image_encoder.': not a SAM checkpoint.")
    return state


def load_encoder(encoder: nn.Module, tensors: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Load the encoder strictly; a missing, unknown or misshapen key is a WeightsError.

    ``assign`` takes the tensors themselves instead of copying them (for a module on the meta device).
    """
    try:
        encoder.load_state_dict(encoder_state(tensors), strict=True, assign=assign)
    except RuntimeError as error:
        raise WeightsError(f"The weights don't fit {type(encoder).__name__}: {error}") from error


def load_head(
    head: SemanticHead | MaskClassificationHead, tensors: Mapping[str, Tensor], *, seed: int = 0
) -> None:
    """Initialise a head from SAM's mask decoder and prompt encoder.

    Shared parts are copied. Output i of K > 1 starts as SAM's mask i mod 4 plus a little noise (so
    that copies can part), a single output as SAM's mask 0, exactly. Queries, which share one
    hypernetwork, start as SAM's mask tokens plus noise as large as these. Skip projections stay zero,
    a classifier keeps its own initialisation.

    Raises
    ------
    WeightsError
        A key is missing, misshapen or unknown.
    """
    rest = {k: _to_float(v) for k, v in tensors.items() if k.startswith(("mask_decoder.", "prompt_encoder."))}
    rest = {k: v for k, v in rest.items() if not k.startswith(UNUSED_PREFIXES)}
    try:
        state = _take_prompts(rest)
        tokens = rest.pop("mask_decoder.mask_tokens.weight")
        hypers = _take_hypers(rest, len(tokens))
    except KeyError as error:
        raise WeightsError(f"The weights lack the key {error}: not a complete SAM checkpoint.") from error
    generator = torch.Generator().manual_seed(seed)
    sources = [i % len(tokens) for i in range(len(head.mask_tokens))]
    noise = _QUERY_NOISE if isinstance(head, MaskClassificationHead) else _TOKEN_NOISE
    state["mask_tokens"] = _copies(tokens, sources, generator, noise)
    for name, stacked in hypers.items():
        picked = sources if len(head.hyper.weights[0]) == len(sources) else [0]
        state[f"hyper.{name}"] = _copies(stacked, picked, generator, _TOKEN_NOISE)
    state.update({k.removeprefix("mask_decoder."): v for k, v in rest.items()})
    own = {k: v for k, v in head.state_dict().items() if k.startswith(("skips.", "classifier."))}
    try:
        head.load_state_dict({**own, **state}, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"The weights don't fit the mask decoder: {error}") from error


def _take_prompts(rest: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "gaussian_matrix": rest.pop("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
        "no_mask_embed": rest.pop("prompt_encoder.no_mask_embed.weight")[0],
    }


def _take_hypers(rest: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Stack the published hypernetworks into :class:`HyperNetworks`'s parameters."""
    stacked: dict[str, Tensor] = {}
    for layer in range(3):
        for kind, name in (("weight", f"weights.{layer}"), ("bias", f"biases.{layer}")):
            keys = [f"mask_decoder.output_hypernetworks_mlps.{i}.layers.{layer}.{kind}" for i in range(count)]
            stacked[name] = torch.stack([rest.pop(key) for key in keys])
    return stacked


def _copies(source: Tensor, indices: list[int], generator: torch.Generator, noise: float) -> Tensor:
    """Rows of ``source`` by index, with noise where there is more than one row."""
    picked = source[indices]
    if len(indices) == 1:
        return picked
    return picked + noise * source.std() * torch.randn(picked.shape, generator=generator)


def _to_float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value

"""From a configuration and resolved weights to a network that is ready to train or predict."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semseg_automl.core.config import ModelConfig, RunConfig
from semseg_automl.core.errors import ConfigError, WeightsError, unknown_name
from semseg_automl.core.log import get_logger
from semseg_automl.models.checkpoints import BackboneSpec, ResolvedWeights, backbone_spec, resolve_weights
from semseg_automl.models.decoder import MaskClassificationHead, SemanticHead
from semseg_automl.models.encoders import timm_vit
from semseg_automl.models.encoders.base import Encoder
from semseg_automl.models.encoders.channels import extend_input
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from semseg_automl.models.encoders.tiny_vit import TinyViTConfig, TinyViTEncoder
from semseg_automl.models.pretrained import load_encoder, load_head
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.models.weights_files import read_weights
from semseg_automl.models.weights_layout import Shapes
from semseg_automl.models.weights_registry import TIMM
from semseg_automl.peft.inject import inject
from semseg_automl.peft.lst import LadderSide
from semseg_automl.peft.state import adapter_parameters

SAM_TINY = TinyViTConfig(
    dims=(16, 32, 32, 64), depths=(1, 1, 2, 1), heads=(1, 2, 2, 4), windows=(0, 4, 4, 0), embed_dim=64
)
SAM_TINY_SEED = 20_261_123
FULL_WIDTH = 256
_TINY_HEAD: dict[str, Any] = {"num_heads": 4, "mlp_dim": 128}
_log = get_logger("models")


def build_segmenter(
    config: RunConfig,
    num_outputs: int,
    *,
    weights: ResolvedWeights | None = None,
    seed: int = 0,
    trained: bool = False,
    channels: int = 3,
) -> Segmenter:
    """Build a network on the CPU, in evaluation mode.

    Parameters
    ----------
    config : the model's and the adapter's hyperparameters are read.
    num_outputs : 1 for binary, else the number of classes.
    weights : of the backbone; None resolves ``config.model.backbone`` (and may download).
    seed : of the adapters' and the head's initial values. Global generators are left as found.
    trained : trained tensors will be loaded next, so that no ``side_checkpoint`` is read.
    channels : of the pictures; more than 3 extend the first layer (see ``encoders.channels``).

    Returns
    -------
    Segmenter
        Encoder frozen but for its adapters and what further channels need, head trainable.

    Raises
    ------
    ConfigError
        Unknown backbone or head, or an adapter that finds nothing to adapt.
    WeightsError
        Weights not found, or not those of the backbone.
    """
    if num_outputs < 1:
        raise ConfigError(f"num_outputs must be at least 1, not {num_outputs}.")
    weights = weights or resolve_weights(config.model.backbone)
    spec = backbone_spec(weights.name)
    if spec.family not in ENCODERS:
        raise unknown_name("backbone family", spec.family, ENCODERS)
    tensors = weights.load()
    encoder = ENCODERS[spec.family](spec, tensors)
    encoder.gradient_checkpointing = config.model.gradient_checkpointing
    adapters = inject(encoder, encoder.sites(), config.adapter, seed)
    extend_input(encoder, channels)
    if not trained:
        start_side_network(encoder, config.adapter.side_checkpoint)
    head = build_head(config.model, num_outputs, encoder, tensors, seed)
    segmenter = Segmenter(encoder, head, adapters).eval()
    _log.debug("%s: %s", spec.name, ", ".join(f"{k} {v:,}" for k, v in segmenter.parameter_report().items()))
    return segmenter


def start_side_network(encoder: Encoder, checkpoint: str | None) -> None:
    """Load a side network's weights from a safetensors file; say so where there is none. Others: nothing."""
    if not isinstance(encoder.companion, LadderSide):
        return
    if checkpoint is None:
        _log.warning("adapter='lst': the side network starts from random weights (no side_checkpoint).")
        return
    tensors, _ = read_weights(Path(checkpoint).expanduser())
    encoder.companion.load_side(tensors)
    _log.info("adapter='lst': the side network starts from %s.", checkpoint)


def build_head(
    config: ModelConfig, num_outputs: int, encoder: Encoder, tensors: Mapping[str, Tensor], seed: int
) -> SemanticHead | MaskClassificationHead:
    """Build the configured head for an encoder, from SAM's decoder where ``tensors`` hold one."""
    with seeded(seed):
        head = _bare_head(config, num_outputs, encoder)
    if any(name.startswith("mask_decoder.") for name in tensors):
        load_head(head, tensors, seed=seed)
    return head


def _bare_head(
    config: ModelConfig, num_outputs: int, encoder: Encoder
) -> SemanticHead | MaskClassificationHead:
    sizes: dict[str, Any] = {"embed_dim": encoder.embed_dim, "skip_channels": encoder.skip_channels}
    sizes |= _TINY_HEAD if encoder.embed_dim < FULL_WIDTH else {}
    if config.head == "semantic":
        return SemanticHead(num_outputs, **sizes)
    if config.head == "mask_classification":
        return MaskClassificationHead(num_outputs, config.num_queries, **sizes)
    raise unknown_name("head", config.head, ("semantic", "mask_classification"))


def stored_shapes(
    config: RunConfig, num_outputs: int, backbone: str, channels: int = 3
) -> tuple[Shapes, Shapes]:
    """Names and shapes of a model's stored tensors: (adapter, head).

    As ``Segmenter.trainable_state`` of the built network would hold them, from the configuration
    alone: nothing is read, and no memory is taken for values. Raises ConfigError as
    :func:`build_segmenter` does.
    """
    spec = backbone_spec(backbone)
    with torch.device("meta"):
        encoder = ENCODERS[spec.family](spec, None)
        inject(encoder, encoder.sites(), config.adapter)
        extend_input(encoder, channels)
        head = _bare_head(config.model, num_outputs, encoder)
    return _shapes(adapter_parameters(encoder)), _shapes(head.state_dict())


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from torch's CPU generator as if freshly seeded, and leave it as found."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _sam_vit(spec: BackboneSpec, tensors: Mapping[str, Tensor] | None) -> Encoder:
    config = SamViTConfig(dim=spec.dim, depth=spec.depth, heads=spec.heads, global_blocks=spec.global_blocks)
    with torch.device("meta"):  # no memory and no time for values that are about to be replaced
        encoder = SamViTEncoder(config)
    if tensors is not None:
        load_encoder(encoder, tensors, assign=True)
    return encoder


def _tiny_vit(_spec: BackboneSpec, tensors: Mapping[str, Tensor] | None) -> Encoder:
    with seeded(0):
        encoder = TinyViTEncoder()
    if tensors is not None:
        load_encoder(encoder, tensors)
    return encoder


def _sam_tiny(_spec: BackboneSpec, _tensors: Mapping[str, Tensor] | None) -> Encoder:
    with seeded(SAM_TINY_SEED):
        return TinyViTEncoder(SAM_TINY)


def _timm_vit(spec: BackboneSpec, tensors: Mapping[str, Tensor] | None) -> Encoder:
    vit = timm_vit.create(spec.name.removeprefix(TIMM))
    if tensors is None:
        return timm_vit.TimmViTEncoder(vit)
    state = {name: value for name, value in tensors.items() if not timm_vit.is_unused(name)}
    try:
        vit.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"The weights don't fit {spec.name}: {error}") from error
    with seeded(0):
        encoder = timm_vit.TimmViTEncoder(vit)
    _log.info("%s: its neck and the decoder have no pretrained weights; they start at random.", spec.name)
    return encoder


ENCODERS: dict[str, Callable[[BackboneSpec, Mapping[str, Tensor] | None], Encoder]] = {
    "sam_vit": _sam_vit,
    "tiny_vit": _tiny_vit,
    "sam_tiny": _sam_tiny,
    "timm_vit": _timm_vit,
}
"""Encoders with their weights; without any (None) only their names and shapes mean something."""

"""The tensor names and shapes that each backbone's checkpoint must hold.

The layout is that of the published files: ``image_encoder.*``, ``prompt_encoder.*`` and
``mask_decoder.*`` (segment_anything, and MobileSAM for the TinyViT encoder). It is written
down here so that a wrong file is named as such before any module is built.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from semseg_automl.core.errors import WeightsError
from semseg_automl.models.encoders import timm_vit
from semseg_automl.models.weights_registry import BACKBONES, TIMM, BackboneSpec

Shapes = dict[str, tuple[int, ...]]

# In published files but without a part in segmentation: the classifier of the pre-training, index
# tables that follow from the window size, BatchNorm's step counter.
_IGNORED_PREFIXES = ("image_encoder.norm_head.", "image_encoder.head.")
_IGNORED_SUFFIXES = (".attention_bias_idxs", ".ab", ".num_batches_tracked")


def is_ignored(name: str) -> bool:
    """Whether a tensor may be in the file but is neither loaded nor hashed."""
    return name.startswith(_IGNORED_PREFIXES) or name.endswith(_IGNORED_SUFFIXES)


def expected_shapes(spec: BackboneSpec) -> Shapes:
    """Every tensor a checkpoint of this backbone must hold, by name (empty for sam_tiny)."""
    if spec.family == "timm_vit":
        return timm_vit.expected_shapes(spec.name.removeprefix(TIMM))
    if spec.family == "tiny_vit":
        encoder = _tiny_vit()
    elif spec.family == "sam_vit":
        encoder = _sam_vit(spec)
    else:
        return {}
    return {**encoder, **_prompt_encoder(), **_mask_decoder()}


def check_layout(tensors: Mapping[str, torch.Tensor], spec: BackboneSpec, where: str) -> None:
    """Raise WeightsError unless ``tensors`` hold exactly the layout (ignorable extras aside)."""
    expected = expected_shapes(spec)
    missing = sorted(expected.keys() - tensors.keys())
    unused = timm_vit.is_unused if spec.family == "timm_vit" else is_ignored
    extra = sorted(n for n in tensors.keys() - expected.keys() if not unused(n))
    wrong = sorted(n for n, s in expected.items() if n in tensors and tuple(tensors[n].shape) != s)
    kinds = (("missing", missing), ("unexpected", extra), ("of another shape", wrong))
    if not (missing or extra or wrong):
        return
    parts = "; ".join(f"{len(names)} {kind} (first: {names[0]})" for kind, names in kinds if names)
    raise WeightsError(f"{where} does not hold {spec.name} weights: of {len(expected)} tensors, {parts}.")


def detect_backbone(tensors: Mapping[str, torch.Tensor], where: str) -> BackboneSpec:
    """Tell from the tensors which backbone a file holds; WeightsError if none fits."""
    if "image_encoder.patch_embed.seq.0.c.weight" in tensors:
        return BACKBONES["mobile_sam"]
    patch = tensors.get("image_encoder.patch_embed.proj.weight")
    for spec in BACKBONES.values():
        if patch is not None and spec.family == "sam_vit" and patch.shape[0] == spec.dim:
            return spec
    raise WeightsError(
        f"{where} holds none of the known backbones ({', '.join(BACKBONES)}): expected the tensor names of "
        "the published files, such as image_encoder.patch_embed.proj.weight."
    )


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _neck(width: int) -> Shapes:
    return {
        "image_encoder.neck.0.weight": (256, width, 1, 1),
        **_norm("image_encoder.neck.1", 256),
        "image_encoder.neck.2.weight": (256, 256, 3, 3),
        **_norm("image_encoder.neck.3", 256),
    }


def _sam_vit(spec: BackboneSpec) -> Shapes:
    e, d, head_dim = "image_encoder.", spec.dim, spec.dim // spec.heads
    shapes: Shapes = {
        f"{e}pos_embed": (1, 64, 64, d),
        f"{e}patch_embed.proj.weight": (d, 3, 16, 16),
        f"{e}patch_embed.proj.bias": (d,),
    }
    for i in range(spec.depth):
        b, side = f"{e}blocks.{i}", 64 if i in spec.global_blocks else 14
        shapes |= _norm(f"{b}.norm1", d) | _norm(f"{b}.norm2", d)
        shapes |= _linear(f"{b}.attn.qkv", d, 3 * d) | _linear(f"{b}.attn.proj", d, d)
        shapes |= {
            f"{b}.attn.rel_pos_h": (2 * side - 1, head_dim),
            f"{b}.attn.rel_pos_w": (2 * side - 1, head_dim),
        }
        shapes |= _linear(f"{b}.mlp.lin1", d, 4 * d) | _linear(f"{b}.mlp.lin2", 4 * d, d)
    return shapes | _neck(d)


TINY_VIT_STAGES = ((64, 2, 2, 7), (128, 2, 4, 7), (160, 6, 5, 14), (320, 2, 10, 7))
"""TinyViT-5M: (width, blocks, heads, window) per stage; the first stage is convolutional."""


def _conv_bn(name: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    fields = ("weight", "bias", "running_mean", "running_var")
    return {
        f"{name}.c.weight": (outputs, inputs, kernel, kernel),
        **{f"{name}.bn.{f}": (outputs,) for f in fields},
    }


def _tiny_vit() -> Shapes:
    e = "image_encoder."
    shapes = _conv_bn(f"{e}patch_embed.seq.0", 3, 32, 3) | _conv_bn(f"{e}patch_embed.seq.2", 32, 64, 3)
    for stage, (width, blocks, heads, window) in enumerate(TINY_VIT_STAGES):
        for block in range(blocks):
            b = f"{e}layers.{stage}.blocks.{block}"
            if stage == 0:
                shapes |= _conv_bn(f"{b}.conv1", width, 4 * width, 1) | _conv_bn(
                    f"{b}.conv2", 1, 4 * width, 3
                )
                shapes |= _conv_bn(f"{b}.conv3", 4 * width, width, 1)
                continue
            shapes |= _norm(f"{b}.attn.norm", width) | _linear(f"{b}.attn.qkv", width, 3 * width)
            shapes |= _linear(f"{b}.attn.proj", width, width) | _conv_bn(f"{b}.local_conv", 1, width, 3)
            shapes |= {f"{b}.attn.attention_biases": (heads, window * window)} | _norm(f"{b}.mlp.norm", width)
            shapes |= _linear(f"{b}.mlp.fc1", width, 4 * width) | _linear(f"{b}.mlp.fc2", 4 * width, width)
        if stage < 3:
            out, d = TINY_VIT_STAGES[stage + 1][0], f"{e}layers.{stage}.downsample"
            shapes |= _conv_bn(f"{d}.conv1", width, out, 1) | _conv_bn(f"{d}.conv2", 1, out, 3)
            shapes |= _conv_bn(f"{d}.conv3", out, out, 1)
    return shapes | _neck(TINY_VIT_STAGES[-1][0])


def _prompt_encoder() -> Shapes:
    p = "prompt_encoder."
    shapes: Shapes = {f"{p}pe_layer.positional_encoding_gaussian_matrix": (2, 128)}
    for name in (*(f"point_embeddings.{i}" for i in range(4)), "not_a_point_embed", "no_mask_embed"):
        shapes[f"{p}{name}.weight"] = (1, 256)
    for i, shape in ((0, (4, 1, 2, 2)), (3, (16, 4, 2, 2)), (6, (256, 16, 1, 1))):
        shapes |= {f"{p}mask_downscaling.{i}.weight": shape, f"{p}mask_downscaling.{i}.bias": (shape[0],)}
    return shapes | _norm(f"{p}mask_downscaling.1", 4) | _norm(f"{p}mask_downscaling.4", 16)


def _attention(name: str, inner: int) -> Shapes:
    q, k, v = (_linear(f"{name}.{part}_proj", 256, inner) for part in "qkv")
    return q | k | v | _linear(f"{name}.out_proj", inner, 256)


def _mlp3(name: str, outputs: int) -> Shapes:
    hidden = _linear(f"{name}.layers.0", 256, 256) | _linear(f"{name}.layers.1", 256, 256)
    return hidden | _linear(f"{name}.layers.2", 256, outputs)


def _mask_decoder() -> Shapes:
    m, t = "mask_decoder.", "mask_decoder.transformer."
    shapes: Shapes = {f"{m}iou_token.weight": (1, 256), f"{m}mask_tokens.weight": (4, 256)}
    for i in range(2):
        layer = f"{t}layers.{i}"
        shapes |= _attention(f"{layer}.self_attn", 256) | _attention(
            f"{layer}.cross_attn_token_to_image", 128
        )
        shapes |= _attention(f"{layer}.cross_attn_image_to_token", 128)
        shapes |= _linear(f"{layer}.mlp.lin1", 256, 2048) | _linear(f"{layer}.mlp.lin2", 2048, 256)
        for n in range(1, 5):
            shapes |= _norm(f"{layer}.norm{n}", 256)
    shapes |= _attention(f"{t}final_attn_token_to_image", 128) | _norm(f"{t}norm_final_attn", 256)
    shapes |= {
        f"{m}output_upscaling.0.weight": (256, 64, 2, 2),
        f"{m}output_upscaling.0.bias": (64,),
        f"{m}output_upscaling.3.weight": (64, 32, 2, 2),
        f"{m}output_upscaling.3.bias": (32,),
    }
    shapes |= _norm(f"{m}output_upscaling.1", 64) | _mlp3(f"{m}iou_prediction_head", 4)
    for i in range(4):
        shapes |= _mlp3(f"{m}output_hypernetworks_mlps.{i}", 32)
    return shapes

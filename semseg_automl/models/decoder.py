"""SAM's mask decoder with constant prompts, turned into a semantic segmentation head.

Source: Kirillov et al., "Segment Anything", 2023 (the two-way transformer is the package's own class).
Differences: no sparse prompts, the "no mask" embedding everywhere, positions for any grid size; one
output token and hypernetwork per class in place of four ambiguity masks; the quality (IoU) head is
left out, its token is kept; finer encoder maps join the upscaling through projections that start at
zero (idea: HQ-SAM, Ke et al., NeurIPS 2023; placed as in SAM 2), so with zero training the head
computes what SAM's decoder computes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from segment_anything.modeling import TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from semseg_automl.models.encoders.base import EncoderOutput, LayerNorm2d


class TwoWayDecoder(nn.Module):
    """What both heads share: tokens and image attend to each other, then the image map is upscaled x 4.

    Parameters
    ----------
    embed_dim : channels of the encoder's embedding, a multiple of 8 and of ``2 * num_heads``.
    num_heads, mlp_dim : of the two-way transformer (SAM: 8 and 2048).
    skip_channels : stride -> channels of the encoder's finer maps; strides 8 and 4 are used.
    """

    num_outputs: int
    gaussian_matrix: Tensor
    no_mask_embed: Tensor

    def __init__(
        self,
        embed_dim: int = 256,
        *,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        skip_channels: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        skips = dict(skip_channels or {})
        self.embed_dim = embed_dim
        self.transformer = TwoWayTransformer(
            depth=2, embedding_dim=embed_dim, num_heads=num_heads, mlp_dim=mlp_dim
        )
        self.iou_token = nn.Embedding(1, embed_dim)
        widths = {8: embed_dim // 4, 4: embed_dim // 8}
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(embed_dim, widths[8], kernel_size=2, stride=2),
            LayerNorm2d(widths[8]),
            nn.GELU(),
            nn.ConvTranspose2d(widths[8], widths[4], kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.skips = nn.ModuleDict(
            {str(s): SkipProjection(skips[s], widths[s]) for s in (8, 4) if s in skips}
        )
        # frozen prompts: the positional frequencies and the embedding that stands for "no mask given"
        self.register_buffer("gaussian_matrix", torch.randn(2, embed_dim // 2))
        self.register_buffer("no_mask_embed", torch.zeros(embed_dim))

    def positions(self, h: int, w: int) -> Tensor:
        """SAM's positional encoding of an h x w grid: (1, C, h, w)."""
        matrix = self.gaussian_matrix
        y = (torch.arange(h, device=matrix.device, dtype=matrix.dtype) + 0.5) / h
        x = (torch.arange(w, device=matrix.device, dtype=matrix.dtype) + 0.5) / w
        grid = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], dim=-1)
        angle = 2 * math.pi * ((2 * grid - 1) @ matrix)
        encoding = torch.cat([angle.sin(), angle.cos()], dim=-1)
        return encoding.permute(2, 0, 1)[None]  # (h, w, C) -> (1, C, h, w)

    def decode(self, features: EncoderOutput, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the transformer and the upscaling.

        Parameters
        ----------
        features : the encoder's output.
        tokens : (T, C) learned output tokens.

        Returns
        -------
        tokens : (B, T, C).
        upscaled : (B, C/8, 4h, 4w).
        """
        source = features.embedding.float() + self.no_mask_embed[:, None, None]
        b, c, h, w = source.shape
        queries = torch.cat([self.iou_token.weight, tokens])[None].expand(b, -1, -1)
        hidden, keys = self.transformer(source, self.positions(h, w), queries)
        source = keys.transpose(1, 2).reshape(b, c, h, w)  # (B, h*w, C) -> (B, C, h, w)
        up1, norm, act1, up2, act2 = self.output_upscaling
        x = self._add_skip(up1(source), features, 8)
        x = self._add_skip(up2(act1(norm(x))), features, 4)
        return hidden[:, 1:], act2(x)

    def _add_skip(self, x: Tensor, features: EncoderOutput, stride: int) -> Tensor:
        name = str(stride)
        return x + self.skips[name](features.skips[stride].float()) if name in self.skips else x

    def logits(self, features: EncoderOutput) -> Tensor:
        """Logits (B, K, H/4, W/4) in float32."""
        raise NotImplementedError  # abstract: each head defines it

    def forward(self, features: EncoderOutput) -> Tensor:
        """Logits (B, K, H/4, W/4), computed in float32 under autocast too.

        SAM's hypernetworks answer with numbers around 100 that meet pixels around 0.1: in bfloat16 their
        products are off by half a logit, and the head is a small part of the work.
        """
        with torch.autocast(features.embedding.device.type, enabled=False):
            return self.logits(features)


class SkipProjection(nn.Module):
    """Channel norm, then a zero-initialised convolution of a finer encoder map."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1) -> None:
        super().__init__()
        self.norm = LayerNorm2d(c_in)
        self.conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return self.conv(self.norm(x))


class HyperNetworks(nn.Module):
    """K three-layer perceptrons side by side: (B, K, C) -> (B, K, D), one per token."""

    def __init__(self, count: int, c_in: int, c_out: int, depth: int = 3) -> None:
        super().__init__()
        sizes = [c_in] * depth + [c_out]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for n, m in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(n)
            self.weights.append(nn.Parameter(torch.empty(count, m, n).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(count, m).uniform_(-bound, bound)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply perceptron k to token k."""
        x = tokens.transpose(0, 1)  # (B, K, C) -> (K, B, C)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias[:, None], F.relu(x) if i else x, weight.transpose(1, 2))
        return x.transpose(0, 1)


def mask_logits(hyper: Tensor, upscaled: Tensor) -> Tensor:
    """Scalar products of (B, K, D) hyper vectors with the pixels of (B, D, H, W): (B, K, H, W)."""
    b, d, h, w = upscaled.shape
    pixels = upscaled.permute(0, 2, 3, 1).reshape(b, h * w, d)  # channels-last in memory: a view
    return torch.bmm(hyper, pixels.transpose(1, 2)).view(b, -1, h, w)


class SemanticHead(TwoWayDecoder):
    """One mask token and one hypernetwork per output; every pixel gets a class.

    Trainable parameters with SAM's sizes: 3,505,536 for one output, 140,064 for each further one, and
    10,720 for the skip projections of TinyViT-5M.

    Parameters
    ----------
    num_outputs : K, 1 for binary (a foreground logit), else the number of classes.
    """

    def __init__(
        self,
        num_outputs: int,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        skip_channels: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(embed_dim, num_heads=num_heads, mlp_dim=mlp_dim, skip_channels=skip_channels)
        self.num_outputs = num_outputs
        self.mask_tokens = nn.Parameter(torch.randn(num_outputs, embed_dim))
        self.hyper = HyperNetworks(num_outputs, embed_dim, embed_dim // 8)

    def logits(self, features: EncoderOutput) -> Tensor:
        """See :meth:`TwoWayDecoder.logits`."""
        tokens, upscaled = self.decode(features, self.mask_tokens)
        return mask_logits(self.hyper(tokens), upscaled)


class MaskClassificationHead(TwoWayDecoder):
    """The paper's classification branch: each query predicts a mask and a class (or "no object").

    Semantic logits of class k are ``log(sum_q softmax(class_q)[k] * sigmoid(mask_q) + 1e-6)``
    (MaskFormer's semantic inference, Cheng et al. 2021, on a log scale so that softmax over k
    normalises the sums). For one output the classes are background and foreground and the logit is
    the difference of the two. It is trained by :mod:`semseg_automl.losses.matching` unless another loss is
    asked for by name, which then sees the semantic logits.

    Trainable parameters with SAM's sizes: 3,505,280 + 256 Q + 257 (K + 1), K >= 2 (and the skip projections).

    Parameters
    ----------
    num_outputs : K as in :class:`SemanticHead`.
    num_queries : number of (mask, class) pairs; one hypernetwork serves all.
    """

    def __init__(
        self,
        num_outputs: int,
        num_queries: int = 16,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        skip_channels: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(embed_dim, num_heads=num_heads, mlp_dim=mlp_dim, skip_channels=skip_channels)
        self.num_outputs, self.num_queries = num_outputs, num_queries
        self.mask_tokens = nn.Parameter(torch.randn(num_queries, embed_dim))
        self.hyper = HyperNetworks(1, embed_dim, embed_dim // 8)
        self.classifier = nn.Linear(embed_dim, max(2, num_outputs) + 1)

    def queries(self, features: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Mask logits (B, Q, H/4, W/4) and class logits (B, Q, K + 1), the last being "no object"."""
        with torch.autocast(features.embedding.device.type, enabled=False):  # see forward
            tokens, upscaled = self.decode(features, self.mask_tokens)
            b, q, c = tokens.shape
            hyper = self.hyper(tokens.reshape(b * q, 1, c)).view(b, q, -1)  # (B*Q, 1, D) -> (B, Q, D)
            return mask_logits(hyper, upscaled), self.classifier(tokens)

    def logits(self, features: EncoderOutput) -> Tensor:
        """See :meth:`TwoWayDecoder.logits`."""
        masks, classes = self.queries(features)
        scores = torch.einsum("bqk,bqhw->bkhw", classes.softmax(-1)[..., :-1], masks.sigmoid())
        logits = torch.log(scores + 1e-6)
        return logits if self.num_outputs > 1 else logits[:, 1:] - logits[:, :1]

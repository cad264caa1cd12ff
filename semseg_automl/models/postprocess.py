"""From the network's logits to the picture's own size, and to probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.data.preprocess import Geometry


def logits_to_original(logits: Tensor, geometry: Geometry) -> Tensor:
    """Undo the padding and resizing of one picture.

    Parameters
    ----------
    logits : (K, h, w) float, of the padded picture at any stride.
    geometry : how the picture was resized and padded.

    Returns
    -------
    Tensor
        (K, H, W) at the picture's own size, bilinear (half-pixel centres) at each step.
    """
    x = _resize(logits[None], geometry.padded)
    x = x[..., : geometry.resized[0], : geometry.resized[1]]
    return _resize(x, geometry.original)[0]


def probabilities(logits: Tensor) -> Tensor:
    """Class probabilities along the first axis.

    Parameters
    ----------
    logits : (K, ...) float; K = 1 means a foreground logit.

    Returns
    -------
    Tensor
        (2, ...) as background and foreground for K = 1, else (K, ...); sums to 1.
    """
    if logits.shape[0] > 1:
        return logits.softmax(dim=0)
    return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)])


def mirror_padded(image: Tensor, geometry: Geometry) -> Tensor:
    """The network's input for the mirrored picture, made from the picture's own.

    Parameters
    ----------
    image : (3, H', W') float, padded with zeros at the right and bottom.
    geometry : how the picture was resized and padded.

    Returns
    -------
    Tensor
        (3, H', W'): the picture mirrored left to right, its padding still at the right and bottom.
    """
    h, w = geometry.resized
    mirrored = torch.zeros_like(image)
    mirrored[..., :h, :w] = image[..., :h, :w].flip(-1)
    return mirrored


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

"""Windows of a token map: padding, cutting and putting back, after the qkv projection.

Both encoders pad a map at the right and bottom up to whole windows, and the padded tokens take part
in attention as keys (there is no mask), as the published models were trained. All padded tokens are
equal, so the projection runs on the real tokens only, and its value at a padded token is computed
once. An adapter that changes the linear layer itself (lora, ssf, bitfit: ``pointwise``) changes the padded
tokens too, as its merged form does; what another adapter adds, it adds to real tokens. (For SAM's ViT
padded tokens are zero, where LoRA adds nothing anyway.) An adapter that works window by window gets the
padded map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semseg_automl.peft.tracing import is_traced


def padded_size(h: int, w: int, window: int) -> tuple[int, int]:
    """Size after padding to whole windows; unchanged for ``window=0`` (global attention)."""
    if window == 0:
        return h, w
    # no negative numbers: a traced division rounds towards zero
    return (h + window - 1) // window * window, (w + window - 1) // window * window


def pad_map(x: Tensor, size: tuple[int, int], value: Tensor) -> Tensor:
    """Pad (B, h, w, C) at the right and bottom to ``size`` with the vector ``value`` (C,)."""
    b, h, w, c = x.shape
    hp, wp = size
    if is_traced() or wp > w:
        x = torch.cat([x, value.expand(b, h, wp - w, c)], dim=2)
    if is_traced() or hp > h:
        x = torch.cat([x, value.expand(b, hp - h, wp, c)], dim=1)
    return x


def project_padded(linear: nn.Module, x: Tensor, size: tuple[int, int], fill: Tensor) -> Tensor:
    """Project a map whose padding tokens all equal ``fill``.

    Parameters
    ----------
    linear : the qkv Linear, or the adapter layer around it.
    x : (B, h, w, C) real tokens.
    size : padded height and width.
    fill : (C,) what a padded token holds before the projection.

    Returns
    -------
    Tensor
        (B, h', w', C_out), equal to ``linear`` on the padded map for a bare Linear.
    """
    if not is_traced() and size == tuple(x.shape[1:3]):
        return linear(x)
    if works_by_window(linear):
        return linear(pad_map(x, size, fill))
    padding = linear if getattr(linear, "pointwise", False) else getattr(linear, "base", linear)
    return pad_map(linear(x), size, padding(fill))


def works_by_window(linear: nn.Module) -> bool:
    """True for an adapter whose gate or convolution is cut at window borders (peft.conv_lora)."""
    return bool(getattr(linear, "gate_window", 0) or getattr(linear, "pad_window", 0))


def split_windows(qkv: Tensor, window: int, heads: int, per_head: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Cut (B, h', w', 3*C) into windows and heads.

    ``per_head``: channels are [q|k|v] of head 0, of head 1, ... (TinyViT); otherwise q of all heads,
    then k, then v (SAM).

    Returns
    -------
    q, k, v : each (B * windows, heads, tokens, head_dim); windows row by row.
    """
    b, h, w, c3 = qkv.shape
    wh, ww = (window, window) if window else (h, w)
    head_dim = c3 // (3 * heads)
    if per_head:  # (B, nh, wh, nw, ww, heads, 3, d) -> (3, B, nh, nw, heads, wh, ww, d)
        parts = qkv.view(b, h // wh, wh, w // ww, ww, heads, 3, head_dim).permute(6, 0, 1, 3, 5, 2, 4, 7)
    else:  # (B, nh, wh, nw, ww, 3, heads, d) -> (3, B, nh, nw, heads, wh, ww, d)
        parts = qkv.view(b, h // wh, wh, w // ww, ww, 3, heads, head_dim).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = parts.reshape(3, -1, heads, wh * ww, head_dim).unbind(0)
    return q, k, v


def join_windows(x: Tensor, window: int, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Inverse of :func:`split_windows` for the output: (B * windows, heads, tokens, d) -> (B, h, w, C)."""
    _, heads, _, head_dim = x.shape
    hp, wp = padded
    wh, ww = (window, window) if window else padded
    # (B, nh, nw, heads, wh, ww, d) -> (B, nh, wh, nw, ww, heads, d) -> (B, h', w', C)
    x = x.reshape(-1, hp // wh, wp // ww, heads, wh, ww, head_dim).permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(-1, hp, wp, heads * head_dim)
    if not is_traced() and padded == size:
        return x
    return x[:, : size[0], : size[1]]

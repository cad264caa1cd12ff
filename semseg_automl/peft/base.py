"""What an adapter is: a module that stands where a frozen linear layer stood.

Two dataclass-sized ideas: a :class:`Site` says where a linear layer sits in an encoder,
an :class:`AdapterLayer` wraps that layer. Everything trainable of a method lives in the
layer, everything frozen in ``layer.base``. (Methods that need more than one layer's input:
:mod:`semseg_automl.peft.companion`.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.peft.tracing import is_traced

QKV = ("q", "k", "v")


@dataclass(frozen=True, kw_only=True)
class Site:
    """One linear layer that an encoder offers for adaptation.

    Attributes
    ----------
    name : str
        Short unique name, for logs.
    module_path : str
        Dotted path of the ``nn.Linear`` inside the encoder.
    kind : str
        "qkv", "proj" or "mlp".
    part : str
        Which Linear of an MLP it is: "in" (the first) or "out" (the second); "" elsewhere.
    block, n_blocks : int
        Position of the transformer block among the encoder's blocks, counted from 0.
    window : int
        Side of the attention windows in tokens; 0 means global attention.
    heads, head_dim : int
        Attention heads and channels of each.
    layout : str
        Order of the fused projection's output rows: "qkv" ([q of all heads | k | v]) or
        "per_head_qkv" ([q | k | v] of head 0, then of head 1, ...).
    plain_mlp : bool
        Whether nothing but an element-wise activation stands between the two Linears of the block's MLP: no
        gate that halves the channels, no norm over them.
    """

    name: str
    module_path: str
    kind: str
    block: int
    n_blocks: int
    window: int
    heads: int
    head_dim: int
    layout: str = "qkv"
    part: str = ""
    plain_mlp: bool = True

    @property
    def role(self) -> str:
        """What the layer does in its block: "qkv", "proj", "mlp_in" or "mlp_out"."""
        return f"{self.kind}_{self.part}" if self.part else self.kind

    def rows(self, part: str) -> Tensor:
        """Output rows of the fused projection of ``part`` ("q", "k" or "v"): int64 (heads*head_dim,)."""
        grid = torch.arange(3 * self.heads * self.head_dim)
        if self.layout == "qkv":
            return grid.view(3, -1)[QKV.index(part)]  # (3, heads*head_dim)
        if self.layout == "per_head_qkv":
            return grid.view(self.heads, 3, self.head_dim)[:, QKV.index(part)].reshape(-1)
        raise ConfigError(f"Site {self.name!r}: layout is 'qkv' or 'per_head_qkv', not {self.layout!r}.")


class Adapter(nn.Module):
    """Everything trainable that a method puts into an encoder is in modules of this class.

    With ``enabled`` False it computes nothing and the encoder is the frozen one. ``aux_loss`` is set by
    every forward pass in training mode of methods that have one (unscaled), else None.

    Attributes
    ----------
    no_merge : str
        Why the method can't be merged into linear layers; empty where it can.
    fast : tuple of str
        Names of the parameters that LoRA+ trains at a higher rate than the others.
    """

    no_merge: str = "the method has no merged form"
    fast: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.aux_loss: Tensor | None = None

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and parameter of everything that this method trains (nothing of ``base``)."""
        return ((n, p) for n, p in self.named_parameters() if not n.startswith("base."))

    def merge(self) -> nn.Linear:
        """One frozen linear layer that computes what the enabled adapter computes, up to rounding.

        The adapter itself stays as it is; the new layer has memory of its own.

        Raises
        ------
        ConfigError
            Where the method is no linear map of each token (``no_merge`` says why).
        """
        raise ConfigError(
            f"{type(self).__name__} can't be merged into linear layers: {self.no_merge}. Use the model "
            "unmerged; lora, ssf, bitfit and parallel_adapter can be merged."
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "aux_loss": None}  # a graph can't be deep-copied


class AdapterLayer(Adapter):
    """A frozen linear layer and what a method adds to it. Subclasses implement :meth:`adapt`.

    Parameters
    ----------
    base : nn.Linear
        The layer to stand for; frozen here.
    site : Site
        Where it sits.

    Attributes
    ----------
    pointwise : bool
        True where the method changes the linear layer itself, so that padded tokens get the change as
        well (see ``models.encoders.windows``) and :meth:`merge` is exact.
    needs_grid : bool
        True where the method takes maps (B, h, w, C) only, for it looks at neighbours.
    """

    pointwise: bool = False
    needs_grid: bool = False

    def __init__(self, base: nn.Linear, site: Site) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.site = site

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C_in), or (B, N, C_in) where the method needs no grid, to (..., C_out)."""
        self.aux_loss = None
        return self.adapt(x) if self.enabled else self.base(x)

    def adapt(self, x: Tensor) -> Tensor:
        """Return the adapted output; same shapes as :meth:`forward`."""
        raise NotImplementedError  # abstract: each method defines it

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """Weight (C_out, C_in) and bias (C_out,) of the linear layer that equals the enabled adapter."""
        raise NotImplementedError  # abstract: methods without ``no_merge`` define it

    def merge(self) -> nn.Linear:
        """See :meth:`Adapter.merge`."""
        if self.no_merge:
            return super().merge()  # raises
        with torch.no_grad():
            weight, bias = self.merged()
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        return layer.train(self.training)


class LowRankLayer(AdapterLayer):
    """h = W0 x + s Wd f(We x): the shared part of LoRA and its children (Hu et al., ICLR 2022).

    The scale s is alpha / r, or with ``rslora`` alpha / sqrt(r) (Kalajdzievski, "A Rank Stabilization
    Scaling Factor", 2023), which keeps the update's size the same at every rank. At a qkv site there are
    G branches (1 when ``qkv="fused"``; one for each of q, k, v that is a target when "separate") that hold
    their own We and Wd and are computed side by side: z has G * r channels. Rows of targets that are not
    asked for have no parameters and stay untouched. At other sites there is one branch for all rows. We
    starts kaiming-uniform, Wd at 0. LoRA+ (Hayou et al., ICML 2024) trains Wd ``lora_plus_ratio`` times
    faster.

    Attributes
    ----------
    down : Parameter (G*r, C_in)
    up : Parameter (C_out, r) fused with all targets; (rows, r) fused with fewer; (G, C, r) separate.
    """

    row_index: Tensor | None
    fast = ("up",)

    def __init__(
        self, base: nn.Linear, site: Site, config: AdapterConfig, generator: torch.Generator
    ) -> None:
        super().__init__(base, site)
        self.rank = config.rank
        self.scaling = config.alpha / (config.rank**0.5 if config.rslora else config.rank)
        separate = config.qkv == "separate" and site.kind == "qkv"
        self.branches = len(projections(config.targets)) if separate else 1
        rows = target_rows(base, site, config.targets)
        full = self.branches == 1 and len(rows) == base.out_features
        self.register_buffer("row_index", None if full else rows, persistent=False)
        self.down = nn.Parameter(kaiming_uniform((self.branches * self.rank, base.in_features), generator))
        per_branch = len(rows) // self.branches
        shape = (per_branch, self.rank) if self.branches == 1 else (self.branches, per_branch, self.rank)
        self.up = nn.Parameter(torch.zeros(shape))

    def up_matrix(self) -> Tensor:
        """Wd as one (C_out, G*r) matrix, zero in the rows that are not adapted."""
        if self.row_index is None:
            return self.up
        stacked = self.up if self.branches == 1 else block_diagonal(self.up)
        full = stacked.new_zeros(self.base.out_features, stacked.shape[1])
        return full.index_copy(0, self.row_index, stacked)

    def adapt(self, x: Tensor) -> Tensor:
        """Base output plus s Wd transform(We x)."""
        z = nn.functional.linear(x, self.down)  # (..., G*r)
        return self._add_update(x, self.transform(z))

    def transform(self, z: Tensor) -> Tensor:
        """What happens between We and Wd, on (..., G*r); the identity for plain LoRA."""
        return z

    def _add_update(self, x: Tensor, u: Tensor) -> Tensor:
        """Base output plus s u Wd^T, written into the base output's memory where that is safe."""
        out = self.base(x.reshape(-1, x.shape[-1]))  # (tokens, C_out)
        u, up = u.reshape(-1, u.shape[-1]).to(out.dtype), self.up_matrix().to(out.dtype)
        if is_traced():
            out = out + self.scaling * nn.functional.linear(u, up)
        else:
            out = out.addmm_(u, up.t(), alpha=self.scaling)
        return out.view(*x.shape[:-1], -1)


def block_diagonal(blocks: Tensor) -> Tensor:
    """(G, m, n) -> (G*m, G*n): as ``torch.block_diag``, which ONNX lacks."""
    g, _, n = blocks.shape
    rows = [nn.functional.pad(block, (i * n, (g - 1 - i) * n)) for i, block in enumerate(blocks.unbind(0))]
    return torch.cat(rows)


def projections(targets: Sequence[str] | None) -> tuple[str, ...]:
    """Which of q, k and v are targets, in this order; all for None."""
    return QKV if targets is None else tuple(part for part in QKV if part in targets)


def target_rows(base: nn.Linear, site: Site, targets: Sequence[str] | None) -> Tensor:
    """Output rows that a method adapts: those of ``targets`` at a qkv site, else all; int64 (rows,).

    Raises
    ------
    ConfigError
        A qkv site whose heads don't add up to the layer's outputs.
    """
    if site.kind != "qkv":
        return torch.arange(base.out_features)
    if 3 * site.heads * site.head_dim != base.out_features:
        raise ConfigError(
            f"Site {site.name!r}: 3 * heads * head_dim = {3 * site.heads * site.head_dim}, "
            f"but the layer has {base.out_features} outputs."
        )
    return torch.cat([site.rows(part) for part in projections(targets)])


def kaiming_uniform(shape: tuple[int, ...], generator: torch.Generator, fan_in: int | None = None) -> Tensor:
    """Samples of U(-1/sqrt(fan_in), 1/sqrt(fan_in)), float32: torch's kaiming_uniform with a = sqrt(5)."""
    bound = (fan_in or shape[-1]) ** -0.5
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound

"""The paper's cost argument: the one expert of a sparse gate against the sum of all, folded and written out.

    python benchmarks/speed/sparse.py [--size 512 1024] [--rounds 9]

A whole training step of mobile_sam (random weights, which do not change its cost), one picture, float32, two
threads, rank 8, experts of scales 1 to 8: ``sparse`` is Conv-LoRA's learned gate, which keeps one expert for
each picture and layer (in training mostly drawn by its noise, so that a step meets all scales), ``dense`` the
library's default, which weights all, ``sum`` the multi-scale sum without a gate. ``written out``:
interpolate, convolve, interpolate back, only the experts whose gate is not 0; ``folded``: as the library runs
them. Both forms are compared first. There is no bar; what the encoder keeps for the backward pass is counted
beside.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from adapter_step import loss_of, network_of
from interleave import interleaved, ratio, spread, write
from kept_activations import kept_by
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig
from semseg_automl.models.devices import prepare_cpu
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft.conv_lora import ConvLoRALayer

FORMS = {
    "sparse": AdapterConfig(routing="learned"),
    "dense": AdapterConfig(routing="dense"),
    "sum": AdapterConfig(adapter="multi_scale_lora"),
}

HOW = ("written out", "folded")
DRAWS = 8
"""What ``sparse``, written out, keeps depends on the experts that its noise draws: a mean of so many."""


def written_out(layer: ConvLoRALayer, z: Tensor, gates: Tensor) -> Tensor:
    """z + E * sum_i g_i down_i(conv3x3(up_i(z))) on (B, h, w, r), where the gate is not 0."""
    maps, out = z.permute(0, 3, 1, 2), z  # (B, h, w, r) -> (B, r, h, w)
    weights = gates[:, 0, 0] * len(layer.scales)  # (B, 1, 1, E) -> (B, E)
    for i, scale in enumerate(layer.scales):
        kept = weights[:, i].nonzero().squeeze(1)
        if not len(kept):
            continue
        up = maps[kept]
        up = up if scale == 1 else F.interpolate(up, scale_factor=float(scale), mode="bilinear")
        y = F.conv2d(F.pad(up, (1, 1, 1, 1), mode="replicate"), layer.kernels[0, i], layer.bias[0, i])
        y = y if scale == 1 else F.interpolate(y, size=maps.shape[-2:], mode="bilinear")
        weighted = weights[kept, i, None, None, None] * y
        out = out.index_add(0, kept, weighted.permute(0, 2, 3, 1))
    return out


def network(form: str, *, folded: bool) -> Segmenter:
    """A network whose update is not 0, with its experts folded or written out."""
    segmenter = network_of(TinyViTEncoder, FORMS[form])
    for layer in segmenter.adapters:
        assert isinstance(layer, ConvLoRALayer)
        torch.nn.init.normal_(layer.up, std=0.02)
        if not folded:
            layer._mixture = functools.partial(written_out, layer)  # type: ignore[method-assign]
    return segmenter


def check(form: str, images: Tensor) -> None:
    """Stop where the two forms differ by more than rounding; the same noise picks the same experts."""
    outputs = []
    for folded in (True, False):
        segmenter = network(form, folded=folded)
        torch.manual_seed(1)
        outputs.append(segmenter(images).detach())
    difference = float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max())
    if difference > 1e-4:
        raise SystemExit(f"{form}: folded and written out differ by {difference:.2g} of the largest logit")


def step_of(segmenter: Segmenter, size: int) -> Callable[[], None]:
    """A training step without the optimiser on one picture."""
    images, masks = torch.randn(1, 3, size, size), torch.randint(0, 2, (1, size, size))

    def step() -> None:
        loss_of(segmenter, segmenter(images), masks).backward()
        segmenter.zero_grad(set_to_none=True)

    return step


def measured(size: int, rounds: int) -> dict[str, Any]:
    """Seconds of a step over LoRA's, and MiB kept beyond LoRA's, of every form."""
    networks = {"lora": network_of(TinyViTEncoder, AdapterConfig(adapter="lora"))}
    for form in FORMS:
        check(form, torch.randn(2, 3, 256, 256))
        networks |= {
            f"{form}, {how}": network(form, folded=how == "folded") for how in ("folded", "written out")
        }
    kept = {
        name: statistics.fmean(kept_by(segmenter, size) for _ in range(DRAWS))
        for name, segmenter in networks.items()
    }
    seconds = interleaved({n: step_of(s, size) for n, s in networks.items()}, rounds, warm_up=1)
    rows = {
        name: {"over_lora": ratio(seconds[name], seconds["lora"]), "kept_mib": round(kept[name], 1)}
        | spread(seconds[name])
        for name in networks
    }
    argued = {
        f"sum over sparse, {how}": ratio(seconds[f"sum, {how}"], seconds[f"sparse, {how}"]) for how in HOW
    }
    return {"size": size, "rounds": rounds, **argued, "forms": rows}


def main() -> int:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    prepare_cpu()
    cases = [measured(size, arguments.rounds) for size in arguments.size]
    write("sparse", {"threads": 2, "batch": 1, "rank": 8, "scales": "1 to 8", "cases": cases})
    return 0


if __name__ == "__main__":
    sys.exit(main())

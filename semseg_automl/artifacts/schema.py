"""What a saved model's manifest holds, and its one canonical JSON form."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from semseg_automl.core.errors import ArtifactError, FormatError

FORMAT = "semseg_automl model"
FORMAT_VERSION = 1
_PACKAGES = ("semseg_automl", "torch", "safetensors", "numpy")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size in bytes and sha256 of one stored file."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a saved model but its tensors.

    Attributes
    ----------
    label_map, scaling, config
        ``LabelMap.to_json()``, the intensity scaling ({"low", "high", "channels"}; None for plain
        8 bit of up to three channels) and ``RunConfig.to_json()``.
    backbone
        {"name", "source", "sha256"}: which frozen weights the adapter belongs to (sha256 over
        tensors; empty for sam_tiny).
    channels, mean, std
        Channels that the network sees (3, or 4 to 16), and the normalisation on 0..255 RGB; further
        channels have the means of the three.
    threshold
        Foreground probability from which a pixel is foreground; None for several classes.
    metrics
        Validation results by name; NaN is stored as null.
    info
        Free JSON facts (training time, number of pictures). All may be missing; what is read back
        has a default then: column names, "tta", and "train_pictures" (``PictureSizes.to_json()``),
        without which prediction sees every picture whole unless told to tile.
    versions, files
        Package versions; the stored files. ``files`` is filled by ``write_model``.
    """

    label_map: Mapping[str, Any]
    config: Mapping[str, Any]
    backbone: Mapping[str, str]
    scaling: Mapping[str, Any] | None = None
    channels: int = 3
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    threshold: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: package_versions())
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, two spaces, UTF-8, NaN as null; equal content, equal bytes."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        try:
            text = json.dumps(_plain(values), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"The model's manifest can't be written as JSON: {error}") from error
        return (text + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Parse and check a manifest; ArtifactError names what is wrong with it."""
        values = parse_json(data, where)
        if values.pop("format", None) != FORMAT:
            raise FormatError(f"{where} is not a manifest of a saved model ('format' is not {FORMAT!r}).")
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise FormatError(
                f"{where}: format version {version!r} is unknown to this version, which reads "
                f"{FORMAT_VERSION}. Load it with the semseg_automl named in its 'versions', or upgrade."
            )
        names = {f.name for f in dataclasses.fields(cls)}
        if values.keys() != names:
            wrong = sorted(values.keys() ^ names)
            raise ArtifactError(f"{where}: missing or unknown fields: {', '.join(map(str, wrong))}.")
        _check_types(values, where)
        values["files"] = {
            name: _entry(entry, f"{where}: files[{name!r}]") for name, entry in values["files"].items()
        }
        values["metrics"] = {k: math.nan if v is None else v for k, v in values["metrics"].items()}
        values["mean"], values["std"] = tuple(values["mean"]), tuple(values["std"])
        return cls(**values)


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide what a stored model computes."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object, or ArtifactError; repeated keys and non-finite numbers are refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key occurs twice")
        return found

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is no finite number")

    def finite(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(text)

    try:
        values = json.loads(
            data.decode(), object_pairs_hook=unique, parse_constant=refuse, parse_float=finite
        )
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"{where} must hold a JSON object.")
    return values


def _plain(value: Any) -> Any:
    """Dicts, lists, strings, numbers, None; numpy-like scalars become Python's, NaN becomes None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _check_types(values: Mapping[str, Any], where: str) -> None:
    def text_map(x: object) -> bool:
        return isinstance(x, dict) and all(isinstance(v, str) for v in x.values())

    def numbers(x: object) -> bool:
        return all(map(_number, x)) if isinstance(x, list) else _number(x)

    def triple(x: object) -> bool:
        return isinstance(x, list) and len(x) == 3 and all(map(_number, x))

    rules = {
        "label_map": isinstance(values["label_map"], dict),
        "config": isinstance(values["config"], dict),
        "info": isinstance(values["info"], dict),
        "backbone": text_map(values["backbone"]) and set(values["backbone"]) == {"name", "source", "sha256"},
        "scaling": values["scaling"] is None
        or (
            isinstance(values["scaling"], dict)
            and {"low", "high"} <= values["scaling"].keys() <= {"low", "high", "channels"}
            and all(map(numbers, values["scaling"].values()))
        ),
        "channels": type(values["channels"]) is int and 1 <= values["channels"] <= 16,
        "mean": triple(values["mean"]),
        "std": triple(values["std"]),
        "threshold": values["threshold"] is None
        or (_number(values["threshold"]) and 0 <= values["threshold"] <= 1),
        "metrics": isinstance(values["metrics"], dict)
        and all(v is None or _number(v) for v in values["metrics"].values()),
        "versions": text_map(values["versions"]),
        "files": isinstance(values["files"], dict),
    }
    wrong = [name for name, right in rules.items() if not right]
    if wrong:
        raise ArtifactError(f"{where}: fields of the wrong form: {', '.join(wrong)}.")


def _entry(value: object, where: str) -> FileEntry:
    if not isinstance(value, dict) or value.keys() != {"size", "sha256"}:
        raise ArtifactError(f"{where} must hold 'size' and 'sha256'.")
    size, digest = value["size"], value["sha256"]
    if type(size) is not int or size < 0 or not isinstance(digest, str) or len(digest) != 64:
        raise ArtifactError(f"{where} must hold a size in bytes and 64 hexadecimal digits.")
    return FileEntry(size=size, sha256=digest)

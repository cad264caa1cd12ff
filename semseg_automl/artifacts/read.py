"""Reading a saved model: everything is checked before a tensor is handed out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from semseg_automl.artifacts.layout import (
    ADAPTER,
    BACKBONE,
    HEAD,
    MANIFEST,
    OPTIONAL,
    POINTER,
    PROBE,
    REQUIRED,
    VERSION_NAME,
    holds_model,
)
from semseg_automl.artifacts.schema import FORMAT, FORMAT_VERSION, Manifest, parse_json
from semseg_automl.core.errors import ArtifactError

_JSON_LIMIT = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A saved model as read: its manifest and its tensors on the CPU, as stored.

    ``probe`` and ``backbone`` are None where the model was saved without them. ``version`` is the
    name of the version's folder, which follows from the content.
    """

    manifest: Manifest
    version: str
    adapter: dict[str, torch.Tensor] = field(repr=False)
    head: dict[str, torch.Tensor] = field(repr=False)
    probe: dict[str, torch.Tensor] | None = field(default=None, repr=False)
    backbone: dict[str, torch.Tensor] | None = field(default=None, repr=False)


def read_model(folder: str | os.PathLike[str]) -> StoredModel:
    """Read the folder's current model. Nothing in it is executed.

    Raises
    ------
    ArtifactError
        No model there, an unknown format, a missing or foreign file, a wrong size or checksum.
    """
    root = Path(folder)
    if not holds_model(root):
        why = "there is no such folder" if not root.is_dir() else f"it has no {POINTER}"
        raise ArtifactError(f"{root} holds no saved model: {why}. Give the folder that fit or save wrote.")
    pointer_bytes = _read(root / POINTER, _JSON_LIMIT)
    while True:
        try:
            return _read_version(root, pointer_bytes)
        except ArtifactError:
            again = _read(root / POINTER, _JSON_LIMIT)
            if again == pointer_bytes:  # not replaced by a writer meanwhile: the fault is real
                raise
            pointer_bytes = again


def _read_version(root: Path, pointer_bytes: bytes) -> StoredModel:
    where = str(root / POINTER)
    pointer = parse_json(pointer_bytes, where)
    if pointer.get("format") != FORMAT or pointer.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{where}: format {pointer.get('format')!r}, version {pointer.get('format_version')!r}; "
            f"this version reads {FORMAT!r}, version {FORMAT_VERSION}. Upgrade semseg_automl."
        )
    if pointer.keys() != {"format", "format_version", "version", "manifest_sha256"}:
        raise ArtifactError(f"{where} has missing or unknown fields: {', '.join(sorted(pointer))}.")
    name, digest = pointer["version"], pointer["manifest_sha256"]
    if not isinstance(name, str) or not VERSION_NAME.fullmatch(name) or not isinstance(digest, str):
        raise ArtifactError(f"{where}: 'version' must be v- and 16 hexadecimal digits, found {name!r}.")
    version = root / name
    manifest_bytes = _read(version / MANIFEST, _JSON_LIMIT)
    if hashlib.sha256(manifest_bytes).hexdigest() != digest or name != f"v-{digest[:16]}":
        raise ArtifactError(
            f"{version / MANIFEST} was changed after saving: its sha256 is not the one in {POINTER}."
        )
    manifest = Manifest.from_bytes(manifest_bytes, str(version / MANIFEST))
    _check_names(manifest, version)
    tensors = {file: _tensors(version / file, manifest) for file in manifest.files}
    return StoredModel(
        manifest=manifest,
        version=name,
        adapter=tensors[ADAPTER],
        head=tensors[HEAD],
        probe=tensors.get(PROBE),
        backbone=tensors.get(BACKBONE),
    )


def _check_names(manifest: Manifest, version: Path) -> None:
    missing = [n for n in REQUIRED if n not in manifest.files]
    foreign = [n for n in manifest.files if n not in REQUIRED + OPTIONAL]
    if missing or foreign:
        raise ArtifactError(
            f"{version / MANIFEST}: files must be {', '.join(REQUIRED)} and at most "
            f"{', '.join(OPTIONAL)}; missing {missing}, not allowed {foreign}."
        )


def _read(path: Path, limit: int) -> bytes:
    """The bytes of a regular file (no link) of at most ``limit`` bytes."""
    try:
        linked_version = VERSION_NAME.fullmatch(path.parent.name) and path.parent.is_symlink()
        if path.is_symlink() or linked_version:
            raise ArtifactError(f"{path} is a link; a saved model consists of regular files.")
        size = path.stat().st_size
        if size > limit:
            raise ArtifactError(
                f"{path} has {size} bytes, at most {limit} are allowed: damaged, or not ours."
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"The saved model is incomplete: {path} is missing.") from error
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error}") from error


def _tensors(path: Path, manifest: Manifest) -> dict[str, torch.Tensor]:
    entry = manifest.files[path.name]
    data = _read(path, entry.size)
    if len(data) != entry.size:
        raise ArtifactError(f"{path} has {len(data)} bytes instead of {entry.size}: cut short while copying?")
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ArtifactError(f"{path} was changed after saving: its sha256 is not the one in {MANIFEST}.")
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} is not a safetensors file: {error}") from error

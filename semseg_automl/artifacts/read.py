"""Reading a saved model: everything is checked before a tensor is handed out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from semseg_automl.artifacts.files import JSON_LIMIT, no_unpickling, read_regular
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
    folder_of,
    holds_model,
)
from semseg_automl.artifacts.schema import FORMAT, FORMAT_VERSION, Manifest, parse_json
from semseg_automl.artifacts.tensors import Shapes, largest_file, read_tensors
from semseg_automl.core.errors import ArtifactError, ChecksumError, FormatError, TensorError

Expected = Callable[[Manifest], Mapping[str, Shapes]]
"""From a manifest to the tensors that each of its files must hold, by file name."""


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


def require_model(folder: str | os.PathLike[str]) -> None:
    """Raise ArtifactError where a folder does not look like a saved model."""
    root = folder_of(folder)
    if not holds_model(root):
        why = "there is no such folder" if not root.is_dir() else f"it has no {POINTER}"
        raise ArtifactError(f"{root} holds no saved model: {why}. Give the folder that fit or save wrote.")


def read_model(folder: str | os.PathLike[str], expected: Expected | None = None) -> StoredModel:
    """Read the folder's current model. Nothing in it is executed.

    Parameters
    ----------
    folder
    expected
        Says which tensors the manifest's configuration needs: a file that is larger than they are
        is not read, and names, shapes and types are compared before a tensor is made. None takes
        the tensors that are there.

    Raises
    ------
    FormatError, ChecksumError, TensorError, ArtifactError
        An unknown format; a wrong size or checksum; tensors that don't fit; no model there, or a
        missing or foreign file.
    """
    root = folder_of(folder)
    require_model(root)
    pointer_bytes = read_regular(root / POINTER, JSON_LIMIT)
    while True:
        try:
            with no_unpickling():
                return _read_version(root, pointer_bytes, expected)
        except ArtifactError:
            again = read_regular(root / POINTER, JSON_LIMIT)
            if again == pointer_bytes:  # not replaced by a writer meanwhile: the fault is real
                raise
            pointer_bytes = again


def _read_version(root: Path, pointer_bytes: bytes, expected: Expected | None) -> StoredModel:
    where = str(root / POINTER)
    pointer = parse_json(pointer_bytes, where)
    if pointer.get("format") != FORMAT or pointer.get("format_version") != FORMAT_VERSION:
        raise FormatError(
            f"{where}: format {pointer.get('format')!r}, version {pointer.get('format_version')!r}; "
            f"this version reads {FORMAT!r}, version {FORMAT_VERSION}. Upgrade semseg_automl."
        )
    if pointer.keys() != {"format", "format_version", "version", "manifest_sha256"}:
        raise ArtifactError(f"{where} has missing or unknown fields: {', '.join(sorted(pointer))}.")
    name, digest = pointer["version"], pointer["manifest_sha256"]
    if not isinstance(name, str) or not VERSION_NAME.fullmatch(name) or not isinstance(digest, str):
        raise ArtifactError(f"{where}: 'version' must be v- and 16 hexadecimal digits, found {name!r}.")
    version = root / name
    manifest_bytes = read_regular(version / MANIFEST, JSON_LIMIT)
    if hashlib.sha256(manifest_bytes).hexdigest() != digest or name != f"v-{digest[:16]}":
        raise ChecksumError(
            f"{version / MANIFEST} was changed after saving: its sha256 is not the one in {POINTER}."
        )
    manifest = Manifest.from_bytes(manifest_bytes, str(version / MANIFEST))
    _check_names(manifest, version)
    shapes = expected(manifest) if expected is not None else {}
    tensors = {file: _tensors(version / file, manifest, shapes.get(file)) for file in manifest.files}
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


def _tensors(path: Path, manifest: Manifest, shapes: Shapes | None) -> dict[str, torch.Tensor]:
    entry = manifest.files[path.name]
    largest = entry.size if shapes is None else largest_file(shapes)
    if entry.size > largest:
        raise TensorError(
            f"{path} has {entry.size} bytes by the {MANIFEST}; the tensors that its configuration needs take "
            f"at most {largest}."
        )
    data = read_regular(path, entry.size)
    if len(data) != entry.size:
        raise ChecksumError(f"{path} has {len(data)} bytes instead of {entry.size}: cut short while copying?")
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ChecksumError(f"{path} was changed after saving: its sha256 is not the one in {MANIFEST}.")
    return read_tensors(data, path, shapes)

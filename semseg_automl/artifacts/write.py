"""Writing a model so that a crash at any moment leaves the old one or the new one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from semseg_automl.artifacts.card import HEADING, model_card
from semseg_automl.artifacts.layout import (
    ADAPTER,
    BACKBONE,
    CARD,
    HEAD,
    MANIFEST,
    PART,
    POINTER,
    PROBE,
    SCRATCH,
    VERSION_NAME,
    folder_of,
    replace_file,
    sync_folder,
)
from semseg_automl.artifacts.schema import FORMAT, FORMAT_VERSION, FileEntry, Manifest
from semseg_automl.core.errors import ArtifactError
from semseg_automl.core.log import get_logger

Tensors = Mapping[str, torch.Tensor]
STALE_SECONDS = 3600
_log = get_logger("artifacts")


def write_model(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    adapter: Tensors,
    head: Tensors,
    probe: Tensors | None = None,
    *,
    backbone: Tensors | None = None,
) -> Path:
    """Save a model and make it the folder's current one.

    The same content gives the same bytes and the same version folder. An earlier version in the
    folder is removed once the new one counts; other files are left alone.

    Parameters
    ----------
    folder
        Created if need be.
    manifest
        Its ``files`` are filled in here.
    adapter, head
        Trained tensors by name, stored as they are.
    probe
        A fixed input and its output, compared on loading (see ``artifacts.probe``).
    backbone
        Frozen encoder and decoder weights by published name, so that the model needs no other
        file (``include_backbone=True``); stored as float16 where that loses nothing.

    Returns
    -------
    Path
        The version's folder.

    Raises
    ------
    ArtifactError
        Not writable, disk full, a tensor that is not finite, a value that JSON can't hold.
    """
    parts = {ADAPTER: adapter, HEAD: head, PROBE: probe, BACKBONE: _compact(backbone)}
    contents = {name: _serialise(tensors, name) for name, tensors in parts.items() if tensors is not None}
    entries = {n: FileEntry(size=len(b), sha256=hashlib.sha256(b).hexdigest()) for n, b in contents.items()}
    manifest = dataclasses.replace(manifest, files=entries)
    contents[MANIFEST] = manifest.to_bytes()
    digest = hashlib.sha256(contents[MANIFEST]).hexdigest()
    pointer = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": f"v-{digest[:16]}",
        "manifest_sha256": digest,
    }
    root = folder_of(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        version = root / f"v-{digest[:16]}"
        _place(root, version, contents)
        sync_folder(root)
        replace_file(root / POINTER, (json.dumps(pointer, sort_keys=True, indent=2) + "\n").encode())
        sync_folder(root)  # the new version counts, also after a power cut: the old one may go
        _place_card(root / CARD, model_card(manifest))
    except OSError as error:
        raise ArtifactError(
            f"The model can't be saved in {root}: {error}. Choose a folder that can be written, with room "
            f"for {sum(map(len, contents.values())) / 2**20:.0f} MiB."
        ) from error
    _remove_others(root, version)
    return version


def _serialise(tensors: Tensors, name: str) -> bytes:
    """Bytes of a safetensors file; every tensor finite, on the CPU, contiguous and in memory of its own."""
    ready = {}
    for key in sorted(tensors):
        tensor = tensors[key].detach().to("cpu").contiguous()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{name}: tensor {key!r} is not finite; such a model is not saved.")
        ready[key] = tensor.clone()
    return save(ready)


def _compact(tensors: Tensors | None) -> Tensors | None:
    """float32 -> float16 for every tensor that survives the way there and back unchanged."""
    if tensors is None:
        return None
    halves = {name: tensor.detach().to("cpu", torch.float16) for name, tensor in tensors.items()}
    return {
        n: h if torch.equal(h.to(tensors[n].dtype), tensors[n].detach().cpu()) else tensors[n]
        for n, h in halves.items()
    }


def _place(root: Path, version: Path, contents: Mapping[str, bytes]) -> None:
    """Put the version's folder in place with one rename; an equal one that is there stays."""
    if version.is_dir():
        if all(
            (version / n).is_file() and (version / n).read_bytes() == data for n, data in contents.items()
        ):
            return
        for name, data in contents.items():  # damaged: mend file by file
            replace_file(version / name, data)
        return
    scratch = Path(tempfile.mkdtemp(dir=root, prefix=SCRATCH))
    try:
        inner = scratch / version.name
        inner.mkdir()  # unlike mkdtemp's, with the usual permissions
        for name, data in contents.items():
            with (inner / name).open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        sync_folder(inner)
        os.replace(inner, version)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _place_card(path: Path, text: str) -> None:
    """Write the card, unless a file of that name is somebody's own."""
    if path.exists() and not path.read_bytes().startswith(HEADING.encode()):
        _log.warning("%s is no model card, so it stays; the model has none.", path)
        return
    replace_file(path, text.encode())


def _remove_others(root: Path, keep: Path) -> None:
    """Remove earlier versions, and what a save that was killed left behind an hour or more ago."""
    for other in root.iterdir():
        try:
            if other == keep or other.is_symlink():
                continue
            if (VERSION_NAME.fullmatch(other.name) or _is_stale(other, SCRATCH)) and other.is_dir():
                shutil.rmtree(other)
            elif _is_stale(other, PART):
                other.unlink()
        except OSError as error:
            _log.warning("%s, of an earlier save, could not be removed: %s", other, error)


def _is_stale(path: Path, prefix: str) -> bool:
    """Whether it is a save's scratch, and so old that no save can still be using it."""
    return path.name.startswith(prefix) and time.time() - path.stat().st_mtime > STALE_SECONDS

"""Where things lie in a model's folder.

::

    model/
      README.md                    model card, for people
      current.json                 which version counts, and the sha256 of its manifest
      v-<16 hex digits>/           named by its content, written once, never changed
        manifest.json
        adapter.safetensors  head.safetensors  [probe.safetensors]  [backbone.safetensors]
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

POINTER, MANIFEST, CARD = "current.json", "manifest.json", "README.md"
SCRATCH, PART = ".saving-", ".writing-"
ADAPTER, HEAD, PROBE, BACKBONE = (f"{part}.safetensors" for part in ("adapter", "head", "probe", "backbone"))
REQUIRED, OPTIONAL = (ADAPTER, HEAD), (PROBE, BACKBONE)
VERSION_NAME = re.compile(r"v-[0-9a-f]{16}")


def folder_of(path: str | os.PathLike[str]) -> Path:
    """A folder that a user named: ``~`` is their home, and it stays the same where they go elsewhere."""
    return Path(os.path.abspath(Path(path).expanduser()))


def holds_model(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like a saved model (it has a pointer file); its content is not checked."""
    return (folder_of(folder) / POINTER).is_file()


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut (POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old bytes or the new ones, never a part."""
    temporary = path.with_name(f"{PART}{uuid.uuid4().hex}")  # not mkstemp: it ignores the umask
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

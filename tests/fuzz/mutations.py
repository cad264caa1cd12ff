"""Damage and forgery: each function does one random thing to a saved model's folder and says what."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.small_model import reseal, version_of

MARKER = "SEMSEG_FUZZ_MARKER"
_NUMBERS = (0, -1, 1, 2, 3, 0.5, -0.0, 65, 10**6, 2**31, 2**63, 10**30, 1e308)
_TEXTS = (
    "",
    "..",
    "../x",
    "/etc/passwd",
    "v-0123456789abcdef",
    "head.safetensors",
    "sam_vit_b",
    "\x00",
    "a" * 9999,
)
_OTHERS = (None, True, False, [], {}, [[]], [0, 0], {"a": 1}, [10**9, 10**9])


class Bomb:
    """A pickle that leaves a file behind when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (os.environ[MARKER],))


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "README.md")


def _tensor_files(folder: Path) -> list[Path]:
    return sorted(version_of(folder).glob("*.safetensors"))


def flip_bits(folder: Path, rng: random.Random) -> str:
    path = rng.choice(_files(folder))
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        data[rng.randrange(min(len(data), rng.choice((256, len(data)))))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"bits of {path.name}"


def truncate(folder: Path, rng: random.Random) -> str:
    path = rng.choice(_files(folder))
    data = path.read_bytes()
    cut = rng.choice((0, 1, 7, 8, 9, len(data) - 1, rng.randrange(len(data))))
    path.write_bytes(data[:cut])
    return f"{path.name} cut to {cut} bytes"


def extend(folder: Path, rng: random.Random) -> str:
    path = rng.choice(_files(folder))
    with path.open("ab") as stream:
        stream.write(rng.randbytes(rng.choice((1, 8, 4096))))
    return f"{path.name} made longer"


def hole(folder: Path, rng: random.Random) -> str:
    path, size = rng.choice(_files(folder)), rng.choice((2**28, 2**33, 2**36))
    with path.open("r+b") as stream:
        stream.truncate(size)
    return f"{path.name} with a hole, {size} bytes"


def swap(folder: Path, rng: random.Random) -> str:
    first, second = rng.sample(_files(folder), 2)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    return f"{first.name} and {second.name} swapped"


def remove(folder: Path, rng: random.Random) -> str:
    path = rng.choice(_files(folder))
    path.unlink()
    if rng.random() < 0.3:
        path.mkdir()
    return f"{path.name} removed, or a folder"


def rename(folder: Path, rng: random.Random) -> str:
    path = rng.choice((*_files(folder), version_of(folder)))
    name = rng.choice(("x", "x.py", "head.safetensors.pt", "v-0123456789abcdef", "backbone.safetensors"))
    path.rename(path.with_name(name))
    return f"{path.name} renamed {name}"


def pickled(folder: Path, rng: random.Random) -> str:
    path = rng.choice(_files(folder))
    path.write_bytes(pickle.dumps(Bomb()))
    return f"a pickle as {path.name}"


def link(folder: Path, rng: random.Random) -> str:
    """A file or the version's folder becomes a link: to itself, to nothing, or to equal content elsewhere."""
    path = rng.choice((*_files(folder), version_of(folder)))
    outside = folder.with_name(f"{folder.name}-outside")
    path.rename(outside)
    target = rng.choice((outside, path, Path("/nowhere/at/all"), Path("/dev/zero"), Path("/etc/passwd")))
    path.symlink_to(target)
    return f"{path.name} a link to {target.name}"


def pipe(folder: Path, rng: random.Random) -> str:
    path = rng.choice(_files(folder))
    path.unlink()
    os.mkfifo(path)
    return f"{path.name} a pipe"


def edit_json(folder: Path, rng: random.Random) -> str:
    path = rng.choice([p for p in _files(folder) if p.suffix == ".json"])
    content = json.loads(path.read_text())
    text = _edit(content, rng)
    path.write_text(json.dumps(content))
    return f"{path.name}: {text}"


def raw_json(folder: Path, rng: random.Random) -> str:
    """What no JSON library writes: depth, numbers without end, a key twice, other constants."""
    path = rng.choice([p for p in _files(folder) if p.suffix == ".json"])
    text = path.read_text()
    forms = (
        "[" * 100_000,
        '{"a":' * 50_000,
        "1" * 10_000,
        "1e999",
        "NaN",
        "-Infinity",
        '{"a": 1, "a": 1}',
        "\ufeff{}",
    )
    form = rng.choice(forms)
    place = rng.randrange(len(text))
    path.write_text(form if rng.random() < 0.3 else text[:place] + form + text[place:], encoding="utf-8")
    return f"{path.name} with {form[:12]!r}"


def edit_header(folder: Path, rng: random.Random) -> str:
    """A safetensors file that declares other tensors than it holds."""
    path = rng.choice(_tensor_files(folder))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if rng.random() < 0.2:
        length = rng.choice((0, 2**63, 2**64 - 1, len(data), size + 1, size - 1))
        path.write_bytes(length.to_bytes(8, "little") + data[8:])
        return f"{path.name}: header of {length} bytes"
    entry = header[rng.choice(sorted(header))]
    if rng.random() < 0.6:
        entry["shape"] = rng.choice(
            ([10**9] * 4, [2**62, 4], [2**64], [-1], [0], [], [1.5], "x", entry["shape"][::-1])
        )
        text = f"shape {entry['shape']}"
    else:
        text = _edit(header, rng)
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + size :])
    return f"{path.name}: {text}"


def forge(folder: Path, rng: random.Random) -> str:
    """One value of the manifest, with every checksum right."""
    texts: list[str] = []
    reseal(folder, lambda manifest: texts.append(_edit(manifest, rng)))
    return f"forged manifest: {texts[0]}"


def leave_folder(folder: Path, rng: random.Random) -> str:
    """Names that lead out: in the pointer, or as a file of the manifest."""
    name = rng.choice(("..", "../..", "/", "/etc", "v-0123456789abcdef/../..", "v-../0123456789ab", "."))
    if rng.random() < 0.5:
        pointer = json.loads((folder / "current.json").read_text())
        (folder / "current.json").write_text(json.dumps(pointer | {"version": name}))
        return f"pointer to {name}"
    path = version_of(folder) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][f"{name}/x"] = {"size": 4, "sha256": "0" * 64}
    path.write_text(json.dumps(manifest))
    return f"manifest with {name}/x"


MUTATIONS: tuple[Callable[[Path, random.Random], str], ...] = (
    flip_bits,
    truncate,
    extend,
    swap,
    remove,
    rename,
    pickled,
    edit_json,
    raw_json,
    edit_header,
    leave_folder,
    *((hole, link, pipe) if os.name == "posix" else ()),
)


def mutate(folder: Path, rng: random.Random) -> tuple[str, bool]:
    """Do a random thing; about half of the time make every checksum right afterwards.

    Returns what was done, and whether the checksums were made right (so that masks may differ).
    """
    if rng.random() < 0.25:
        return forge(folder, rng), True
    done = rng.choice(MUTATIONS)(folder, rng)
    sealed = rng.random() < 0.5 and _reseal(folder, rng)
    return done + (" (resealed)" if sealed else ""), sealed


def _reseal(folder: Path, rng: random.Random) -> bool:
    """Whether it could be done: the damage may have taken the manifest or a file."""
    texts: list[str] = []

    def change(manifest: dict[str, Any]) -> None:
        if rng.random() < 0.5:
            texts.append(_edit(manifest, rng))

    try:
        paths = list(folder.rglob("*"))
        if any(p.is_fifo() or p.is_symlink() for p in paths):  # reading one would wait for ever
            return False
        if any(p.is_file() and p.stat().st_size > 2**27 for p in paths):
            return False
        reseal(folder, change)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return True


def _edit(content: Any, rng: random.Random) -> str:
    """Change one random place of a JSON value: another value, a key less, or a key more."""
    place, key = _place(content, rng)
    if place is None:
        return "nothing"
    old = place[key]
    action = rng.random()
    if action < 0.15:
        del place[key]
        return f"without {key!r}"
    if action < 0.25 and isinstance(place, dict):
        place[rng.choice(_TEXTS)] = old
        return f"one key more beside {key!r}"
    pools: list[Any] = [*_NUMBERS, *_TEXTS, *_OTHERS]
    if isinstance(old, int | float) and rng.random() < 0.5:
        pools = [*_NUMBERS, old + 1, old * 2, -old]
    place[key] = rng.choice(pools)
    return f"{key!r} = {str(place[key])[:40]!r}"


def _place(content: Any, rng: random.Random) -> tuple[Any, Any]:
    """A random container inside ``content`` and one of its keys."""
    found: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        keys = (
            list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        )
        for key in keys:
            found.append((value, key))
            walk(value[key])

    walk(content)
    return rng.choice(found) if found else (None, None)


def fresh_copy(original: Path, target: Path) -> Path:
    """The unharmed model again, at ``target``."""
    for place in (target, target.with_name(f"{target.name}-outside")):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        elif os.path.lexists(place):
            place.unlink()
    return Path(shutil.copytree(original, target))

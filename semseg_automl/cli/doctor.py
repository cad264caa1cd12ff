"""``semseg-automl doctor``: what this machine offers and what is missing. No network."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
from typing import Any

from semseg_automl import __version__
from semseg_automl.cli.output import as_json, say
from semseg_automl.core.hardware import detect

DISTRIBUTION = "semseg-automl"
LEAST_DISK = 2e9
MOBILE_SAM_GIB = 3
"""Peak memory of the fits in ``benchmarks/quality`` (2.2 to 3.0 GB, batches of 4), rounded up. For the larger
backbones there are only the estimates of ``models.choose``."""
VARIABLES = ("SEMSEG_AUTOML_WEIGHTS", "SEMSEG_AUTOML_CACHE")


def doctor(args: argparse.Namespace) -> int:
    """Print the report; exit code 1 if something that every fit needs is missing."""
    found = report()
    say(as_json(found) if args.json else "\n".join(_lines(found)))
    return 1 if found["problems"] else 0


def report() -> dict[str, Any]:
    """Facts by name (sizes in bytes, None where unknown); ``problems`` stop a fit, ``notes`` do not."""
    machine = detect()
    packages = package_versions()
    found: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": machine.cores,
        "memory": machine.memory,
        "memory_available": machine.memory_available,
        "disk_free": machine.disk_free,
        "packages": packages,
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "npm": shutil.which("npm"),
        "device": None,
        "device_memory_free": None,
        "gpus": [],
        "cuda": None,
        "auto_backbone": None,
        "fits": {},
        "weights": {},
        "cache": None,
        "notes": [],
        "problems": [
            f"the package {n} is not installed: pip install {n}" for n, v in packages.items() if v is None
        ],
    }
    try:
        found.update(_torch_facts())
    except (ImportError, OSError) as error:  # a broken library is an OSError on some systems
        found["problems"].append(f"torch or a package around it can't be imported: {error}")
    found["notes"] = list(_notes(found))
    return found


def package_versions() -> dict[str, str | None]:
    """Installed version (None: absent) of each package that this one requires, extras left out."""
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # run from its source folder
        required = [
            "torch",
            "torchvision",
            "segment-anything",
            "lightning",
            "optuna",
            "timm",
            "pandas",
            "scikit-learn",
        ]
    versions: dict[str, str | None] = {}
    for line in required:
        match = re.match(r"[A-Za-z0-9._-]+", line)
        if match is None or re.search(r";.*\bextra\b", line):
            continue
        try:
            versions[match.group()] = importlib.metadata.version(match.group())
        except importlib.metadata.PackageNotFoundError:
            versions[match.group()] = None
    return versions


def _torch_facts() -> dict[str, Any]:
    import torch

    from semseg_automl.models.checkpoints import BACKBONES, available_weights, cache_folder
    from semseg_automl.models.choose import choose_backbone
    from semseg_automl.models.devices import describe_gpus, free_memory, pick_devices

    choice = pick_devices("auto")
    free = free_memory(choice)
    name, reason = choose_backbone(choice)
    files = {name: path for name, path in available_weights().items() if BACKBONES[name].sources}
    return {
        "device": str(choice),
        "device_memory_free": free,
        "gpus": describe_gpus(),
        "cuda": torch.version.cuda,
        "auto_backbone": {"name": name, "reason": reason},
        "fits": what_fits(free),
        "weights": {name: None if path is None else str(path) for name, path in files.items()},
        "cache": str(cache_folder()),
    }


def what_fits(free: int | None) -> dict[str, dict[str, Any]]:
    """By backbone: bytes that training it takes about, and whether so many are free (None: unknown)."""
    from semseg_automl.models.choose import NEEDED_GIB

    needed = {name: size * 2**30 for name, size in {**NEEDED_GIB, "mobile_sam": MOBILE_SAM_GIB}.items()}
    return {
        name: {"needed": size, "fits": None if free is None else free >= size}
        for name, size in sorted(needed.items(), key=lambda item: item[1])
    }


def _notes(found: dict[str, Any]) -> list[str]:
    notes = []
    if found["weights"] and not any(found["weights"].values()):
        npm = "" if found["npm"] else ", and there is no npm client as a second way"
        notes.append(
            f"no weights are here: the first fit downloads them{npm}. `semseg-automl weights fetch NAME` "
            "does it beforehand"
        )
    if found["disk_free"] < LEAST_DISK:
        notes.append(f"little disk space in the working directory: {_gigabytes(found['disk_free'])}")
    return notes


def _lines(found: dict[str, Any]) -> list[str]:
    free = _gigabytes(found["device_memory_free"])
    pairs = [
        ("version", f"semseg-automl {found['version']}, Python {found['python']}, {found['platform']}"),
        ("device", f"{found['device']}, {free} free" if found["device"] else "unknown"),
        *((f"GPU {gpu['index']}", _gpu_line(gpu, found["cuda"])) for gpu in found["gpus"]),
        (
            "auto backbone",
            "{name}, {reason}".format(**found["auto_backbone"]) if found["auto_backbone"] else "unknown",
        ),
        *((f"training {name}", _fit_line(fact)) for name, fact in found["fits"].items()),
        ("cores", found["cores"]),
        ("memory", f"{_gigabytes(found['memory'])}, {_gigabytes(found['memory_available'])} free"),
        ("disk", f"{_gigabytes(found['disk_free'])} free in the working directory"),
        (
            "packages",
            ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["packages"].items()),
        ),
        *((name, value or "not set") for name, value in found["environment"].items()),
        ("cache", found["cache"] or "unknown"),
        ("npm", found["npm"] or "not found"),
        *((f"weights {name}", path or "not here") for name, path in found["weights"].items()),
        *(("note", note) for note in found["notes"]),
        *(("PROBLEM", problem) for problem in found["problems"]),
    ]
    width = max(len(name) for name, _ in pairs)
    return [f"{name:<{width}}  {value}" for name, value in pairs]


def _gpu_line(gpu: dict[str, Any], cuda: str | None) -> str:
    return "{name}, {}, capability {capability}, CUDA {}".format(_gigabytes(gpu["memory"]), cuda, **gpu)


def _fit_line(fact: dict[str, Any]) -> str:
    verdict = {True: "fits", False: "does not fit in what is free", None: "free memory is unknown"}
    return f"takes about {_gigabytes(fact['needed'])}: {verdict[fact['fits']]}"


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"

"""``semseg-automl weights``: what is here, and fetching."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from semseg_automl.cli.arguments import verbosity_of
from semseg_automl.cli.output import as_json, say
from semseg_automl.core.log import verbosity
from semseg_automl.models.checkpoints import BACKBONES, BackboneSpec, available_weights, resolve_weights


def weights(args: argparse.Namespace) -> int:
    """List the backbones with the local files found, or fetch and check one backbone's weights."""
    if args.action == "list":
        found = available_weights()
        if args.json:
            say(as_json([_listed(name, found[name]) for name in BACKBONES]))
            return 0
        for name, spec in BACKBONES.items():
            say(f"{name:<12}  {spec.description}")
            say(f"{'':<12}  {found[name] or _absent(spec)}")
        return 0
    with verbosity(verbosity_of(args)):
        resolved = resolve_weights(args.name)
    if args.json:
        facts = ("name", "source", "path", "sha256")
        say(as_json({fact: getattr(resolved, fact) for fact in facts}))
        return 0
    say(f"{resolved.name} ({resolved.source}): {resolved.path or 'needs no file'}")
    if resolved.sha256:
        say(f"sha256 over tensors: {resolved.sha256}")
    return 0


def _listed(name: str, path: Path | None) -> dict[str, Any]:
    spec = BACKBONES[name]
    return {
        "name": name,
        "description": spec.description,
        "path": path,
        "bytes_to_fetch": 0 if path or not spec.sources else max(source.size for source in spec.sources),
    }


def _absent(spec: BackboneSpec) -> str:
    if not spec.sources:
        return "needs no file"
    largest = max(source.size for source in spec.sources) / 1e6
    return f"not here; fetched when needed ({largest:.0f} MB)"

"""``semseg-automl weights``: what is here, and fetching."""

from __future__ import annotations

import argparse

from semseg_automl.cli.arguments import verbosity_of
from semseg_automl.cli.output import say
from semseg_automl.core.log import verbosity
from semseg_automl.models.checkpoints import BACKBONES, BackboneSpec, available_weights, resolve_weights


def weights(args: argparse.Namespace) -> int:
    """List the backbones with the local files found, or fetch and check one backbone's weights."""
    if args.action == "list":
        found = available_weights()
        for name, spec in BACKBONES.items():
            say(f"{name:<12}  {spec.description}")
            say(f"{'':<12}  {found[name] or _absent(spec)}")
        return 0
    with verbosity(verbosity_of(args)):
        resolved = resolve_weights(args.name)
    say(f"{resolved.name} ({resolved.source}): {resolved.path or 'needs no file'}")
    if resolved.sha256:
        say(f"sha256 over tensors: {resolved.sha256}")
    return 0


def _absent(spec: BackboneSpec) -> str:
    if not spec.sources:
        return "needs no file"
    largest = max(source.size for source in spec.sources) / 1e6
    return f"not here; fetched when needed ({largest:.0f} MB)"

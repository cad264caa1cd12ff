"""Licences and known vulnerabilities of everything that installing this package brings along.

    python -m tests.check_dependencies

Exit code 1 for a copyleft licence or a known vulnerability. A check that could not be made says
why and does not fail: the reason stands in the log.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COPYLEFT = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)
EXCEPTION = re.compile(r"GPL\S* WITH GCC-exception\S*", re.IGNORECASE)  # of the compiler's own library
UNREACHABLE = re.compile(r"ConnectionError|Max retries|Timeout|ServiceError|Name or service")
PACKAGE = "semseg-automl"


def dependencies(root: str = PACKAGE) -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions that ``root`` needs, directly or not, without its extras."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [root]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name == canonicalize_name(root):
                raise
            continue  # a marker of another platform or extra
        waiting += list(_required(found[name]))
    del found[canonicalize_name(root)]
    return found


def _required(distribution: importlib.metadata.Distribution) -> Iterator[str]:
    for text in distribution.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


def licence(distribution: importlib.metadata.Distribution) -> str:
    """Its licence as the metadata say: an SPDX expression, classifiers, or the first line of the field."""
    metadata = distribution.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classified = [
        c.rsplit(" :: ", 1)[-1] for c in metadata.get_all("Classifier", []) if c.startswith("License")
    ]
    return "; ".join(classified) or (metadata.get("License") or "not stated").strip().split("\n")[0]


def is_copyleft(text: str) -> bool:
    """GPL or AGPL without another licence to choose instead; the LGPL allows linking."""
    return all(COPYLEFT.search(choice) for choice in re.split(r"\bOR\b|;", EXCEPTION.sub("", text)))


def vulnerabilities() -> tuple[int, str]:
    """pip-audit's exit code and what it said; 0 and the reason where it could not be run."""
    if importlib.util.find_spec("pip_audit") is None:
        return 0, "SKIPPED: pip-audit is not installed (pip install pip-audit)."
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner=off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return 0, "SKIPPED: pip-audit did not end within 300 s."
    said = (done.stdout + done.stderr).strip()
    if "Found" not in said and done.returncode and UNREACHABLE.search(said):
        return 0, f"SKIPPED: the vulnerability service can't be reached: {said.splitlines()[-1]}"
    return done.returncode, said


def main() -> int:
    """Print both checks and return the exit code."""
    licences = {name: licence(found) for name, found in sorted(dependencies().items())}
    refused = {name: text for name, text in licences.items() if is_copyleft(text)}
    for name, text in licences.items():
        sys.stdout.write(f"{'REFUSED' if name in refused else 'licence'}  {name}: {text}\n")
    code, said = vulnerabilities()
    sys.stdout.write(f"vulnerabilities: {said}\n")
    return 1 if refused or code else 0


if __name__ == "__main__":
    raise SystemExit(main())

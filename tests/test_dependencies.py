"""No dependency has a licence that this package's users could not live with."""

from __future__ import annotations

import importlib.metadata

import pytest

from tests.check_dependencies import PACKAGE, dependencies, is_copyleft, licence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", False),
        ("BSD-3-Clause", False),
        ("GPL-3.0-or-later", True),
        ("GNU Affero General Public License v3", True),
        ("AGPL-3.0", True),
        ("LGPL-2.1", False),
        ("GPL-2.0 OR MIT", False),
        ("MIT License; GNU General Public License (GPL)", False),
        ("BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("not stated", False),
    ],
)
def test_copyleft_is_known(text: str, expected: bool) -> None:
    assert is_copyleft(text) is expected


def test_no_dependency_is_copyleft() -> None:
    try:
        found = dependencies()
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed here (pip install -e .), so its dependencies are not known")
    assert {"torch", "numpy", "safetensors"} <= found.keys()
    refused = {name: licence(d) for name, d in found.items() if is_copyleft(licence(d))}
    assert not refused

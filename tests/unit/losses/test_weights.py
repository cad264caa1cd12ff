"""Class weights against scikit-learn's, and what absent classes get."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from semseg_automl.core.errors import ConfigError
from semseg_automl.losses.weights import class_weights

PIXELS = (700, 20, 280)


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.repeat(np.arange(3), PIXELS)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights(PIXELS, "balanced") == pytest.approx(list(expected))


def test_roots_lie_half_way() -> None:
    full, half = (class_weights(PIXELS, scheme) for scheme in ("balanced", "sqrt"))
    assert full is not None and half is not None
    assert [w**2 for w in half] == pytest.approx(full)


def test_absent_classes_get_the_largest_weight() -> None:
    weights = class_weights((10, 0, 30), "balanced")
    assert weights == pytest.approx((2.0, 2.0, 2 / 3))


def test_none_and_what_is_refused() -> None:
    assert class_weights(PIXELS, "none") is None
    with pytest.raises(ConfigError, match="Did you mean 'balanced'"):
        class_weights(PIXELS, "balancd")
    with pytest.raises(ConfigError, match="show none"):
        class_weights((0, 0), "sqrt")

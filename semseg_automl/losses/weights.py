"""Class weights from pixel counts, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from semseg_automl.core.errors import ConfigError, unknown_name


def balanced(shares: Sequence[float]) -> tuple[float, ...]:
    """1 / (K * share): every class weighs the same in all its pixels together (scikit-learn's "balanced")."""
    return tuple(1.0 / (len(shares) * share) for share in shares)


def square_root(shares: Sequence[float]) -> tuple[float, ...]:
    """The square root of :func:`balanced`: half way, on a logarithmic scale, to no weights."""
    return tuple(weight**0.5 for weight in balanced(shares))


SCHEMES: dict[str, Callable[[Sequence[float]], tuple[float, ...]]] = {
    "balanced": balanced,
    "sqrt": square_root,
}
NO_WEIGHTS = "none"


def class_weights(pixels: Sequence[int], scheme: str) -> tuple[float, ...] | None:
    """Weights of the classes for the ``class_weights`` of a loss.

    Parameters
    ----------
    pixels : number of labelled pixels of each class, K values of at least 0.
    scheme : "balanced", "sqrt", or "none", whose answer is None.

    Returns
    -------
    tuple of float
        K weights. A class without a pixel gets the largest of the others' (its share can't be known).

    Raises
    ------
    ConfigError
        An unknown scheme, or no pixel at all.
    """
    if scheme == NO_WEIGHTS:
        return None
    if scheme not in SCHEMES:
        raise unknown_name("class_weights", scheme, [*SCHEMES, NO_WEIGHTS])
    present = [n for n in pixels if n > 0]
    if not present:
        raise ConfigError("class_weights need labelled pixels, and the masks show none; use 'none'.")
    weights = iter(SCHEMES[scheme]([n / sum(present) for n in present]))
    found = [next(weights) if n > 0 else None for n in pixels]
    largest = max(w for w in found if w is not None)
    return tuple(largest if w is None else w for w in found)

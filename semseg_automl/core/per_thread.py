"""A value that each thread has for itself: what one forward pass leaves for its own later modules."""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerThread(Generic[T]):
    """Holds a value for each thread, so that threads that predict do not take each other's.

    A thread that has set none sees the latest of any: autograd's own threads recompute parts of a pass
    (gradient checkpointing on CUDA) that another thread has begun. Copies and pickles hold the first value.
    """

    def __init__(self, first: T) -> None:
        self._first = self._latest = first
        self._own = threading.local()

    def get(self) -> T:
        """This thread's value."""
        value: T = getattr(self._own, "value", self._latest)
        return value

    def set(self, value: T) -> None:
        """Change this thread's value."""
        self._own.value = self._latest = value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._first,)

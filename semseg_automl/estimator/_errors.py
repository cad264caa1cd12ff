"""The one error that needs scikit-learn."""

from __future__ import annotations

import sklearn.exceptions

from semseg_automl.core.errors import SemsegError


class NotFittedError(SemsegError, sklearn.exceptions.NotFittedError):
    """A method that needs a model was called before ``fit`` or ``load``."""

"""What ``fit(hyperparameters=...)`` may choose values from (see ``search.space``)."""

from semseg_automl.search.space import Categorical, Int, Real, Space

__all__ = ["Categorical", "Int", "Real", "Space"]

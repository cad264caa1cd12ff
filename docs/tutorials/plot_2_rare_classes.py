"""
Several classes, some of them rare
==================================
Land from above: fields and forest cover most of each picture, roads and buildings few pixels. The overall
pixel accuracy hides them; scores by class show them.
"""

# %%
# The table and its classes
# -------------------------
# The masks hold 0 to 4. A mapping names the values; predictions come back as values.
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from semseg_automl import SemanticSegmentor, datasets

work = Path(tempfile.mkdtemp())
table = datasets.make_aerial(work / "land", n=30, size=(256, 256), seed=1)
train, test = table[:24], table[24:]
names = {0: "field", 1: "forest", 2: "water", 3: "road", 4: "building"}
counts = sum(np.bincount(np.asarray(Image.open(path)).ravel(), minlength=5) for path in train["label"])
pd.Series(counts / counts.sum(), index=list(names.values()), name="share of pixels").round(3)

# %%
# Fit
# ---
# Nothing need be said about rarity: cross-entropy is joined by Dice, which counts every class alike, and the
# split deals with the rarest class first. ``mean_iou`` is the score that decides.
seg = SemanticSegmentor(classes=names, backbone="mobile_sam", path=work / "model", verbosity=1)
seg.fit(train, time_limit=300, hyperparameters={"image_size": 256})
seg.leaderboard()[["model", "score_val", "fit_time", "n_trainable"]].round(3)

# %%
# Class by class
# --------------
# ``mean_iou`` is the mean of the classes' IoU. A model that never found a building could still have a high
# pixel accuracy.
print({name: round(value, 3) for name, value in seg.evaluate(test).items()})
seg.evaluate(test, per_class=True)[["iou", "dice", "precision", "recall"]].round(3)

# %%
# Look
# ----
# The palette can be told apart by colour-blind readers.
seg.plot_predictions(test, n=3)

# %%
# What is taken for what
# ----------------------
# Each row is a true class, and what its pixels were called.
seg.plot_confusion(test)

# %%
# When a class is never predicted
# -------------------------------
# A fit that ends so says so in a warning. More time comes first, then crops that show small things larger,
# then another loss, as values or as lists to search: ``hyperparameters={"crop_size": [None, 320], "loss":
# ["ce_dice", "focal_dice"]}``.

"""
Several classes, some of them rare
==================================
Grains that cover most of each picture, thin curves and small blobs: six classes in all, of which two cover
few pixels. The overall pixel accuracy hides them; scores by class show them.
"""

# %%
# The table and its classes
# -------------------------
# The masks hold 0 to 5. A mapping names the values; predictions come back as values.
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from semseg_automl import SemanticSegmentor, datasets

work = Path(tempfile.mkdtemp())
table = datasets.make_textures(work / "pictures", n=28, size=(128, 160), n_classes=6, seed=1)
train, test = table[:-6], table[-6:]
names = {0: "coarse", 1: "striped", 2: "fine", 3: "crossed", 4: "curve", 5: "blob"}
counts = sum(np.bincount(np.asarray(Image.open(path)).ravel(), minlength=6) for path in train["label"])
pd.Series(counts / counts.sum(), index=list(names.values()), name="share of pixels").round(3)

# %%
# Fit
# ---
# Nothing need be said about rarity: cross-entropy is joined by Dice, which counts every class alike, and the
# split deals with the rarest class first. ``mean_iou`` is the score that decides.
backbone = "mobile_sam" if os.environ.get("SEMSEG_AUTOML_WEIGHTS") else "sam_tiny"
seg = SemanticSegmentor(classes=names, backbone=backbone, path=work / "model", verbosity=1)
seg.fit(train, time_limit=120, hyperparameters={"image_size": 256})
seg.leaderboard()[["model", "score_val", "fit_time", "n_trainable"]]

# %%
# Class by class
# --------------
# ``mean_iou`` is the mean of these over the classes that occur.
print(seg.evaluate(test))
seg.evaluate(test, per_class=True)

# %%
# Look
# ----
# The palette can be told apart by colour-blind readers.
seg.plot_predictions(test, n=2).save(work / "look.png")
figure, ax = plt.subplots(figsize=(9, 7), layout="constrained")
ax.imshow(Image.open(work / "look.png"))
ax.set_axis_off()

# %%
# When a class is never predicted
# -------------------------------
# A fit that ends so says so in a warning. More time comes first, then crops that show small things larger,
# then another loss, as values or as lists to search: ``hyperparameters={"crop_size": [None, 320], "loss":
# ["ce_dice", "focal_dice"]}``.

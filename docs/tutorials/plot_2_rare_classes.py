"""
Several classes, some of them rare
==================================
Land from above: fields, forest and water cover nearly all of it; a building is a few dozen pixels. A
model that misses every building is still right almost everywhere. Two fits of two minutes each show what
to look at, and what helps: as it comes, and with training crops that show small things larger and lie
around what is rare.
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
# As it comes
# -----------
# Some of it needs no word: cross-entropy is joined by Dice, which counts every class alike, the split
# deals with the rarest class first, and ``mean_iou``, the mean over classes, decides which weights are
# kept. A class that is never predicted on the validation pictures is named in a warning.
plain = SemanticSegmentor(classes=names, backbone="mobile_sam", path=work / "plain", verbosity=1)
plain.fit(train, time_limit=120)
print({name: round(value, 3) for name, value in plain.evaluate(test).items()})

# %%
# The pixel accuracy looks well. Class by class there is more to see:
plain.evaluate(test, per_class=True)[["iou", "precision", "recall", "pixels"]].round(3)

# %%
# Larger, and around what is rare
# -------------------------------
# A building is some ten pixels wide, and the network decides on every fourth pixel of what it sees. So
# the pictures are enlarged, to 512. Training on them whole would take four times as long as at 256: it
# sees crops of 256 instead. And half of the crops are laid around a pixel of a class that is drawn by its
# rarity, so that few of them show nothing but fields.
seg = SemanticSegmentor(classes=names, backbone="mobile_sam", path=work / "model", verbosity=1)
seg.fit(train, time_limit=120, hyperparameters={"image_size": 512, "crop_size": 256, "class_crops": 0.5})
print({name: round(value, 3) for name, value in seg.evaluate(test).items()})

# %%
# Side by side, the IoU of each class on pictures that neither fit has seen:
found = {"as it comes": plain, "larger, around the rare": seg}
pd.DataFrame({name: fit.evaluate(test, per_class=True)["iou"] for name, fit in found.items()}).round(3)

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
# If a class is still not found
# -----------------------------
# More pictures of it come first, then more time. ``class_weights`` and ``loss`` change what a missed
# pixel costs, as values or as lists to search: ``hyperparameters={"class_weights": ["none", "sqrt"],
# "loss": ["ce_dice", "focal_dice"]}``. Where a class has less than 1 % of the pixels and pictures are
# larger than these, crops around it are planned without being asked for.

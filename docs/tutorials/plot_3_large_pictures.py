"""
Large aerial pictures
=====================
Trained on pieces of a few hundred pixels, used on a whole scene. A scene that is much larger than the
training pictures is cut into overlapping tiles, the tiles' logits are blended, and the mask is decided row
by row.
"""

# %%
# Pieces to learn from, and a scene
# ---------------------------------
# Thirty pieces of 256 x 256 pixels, and a scene of fifteen times their area that none of them was cut from.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from semseg_automl import SemanticSegmentor, datasets
from semseg_automl.estimator.colours import class_colours

work = Path(tempfile.mkdtemp())
train = datasets.make_aerial(work / "pieces", n=30, size=(256, 256), seed=2)
scene = datasets.make_aerial(work / "scene", n=1, size=(864, 1152), seed=3)

# %%
# Fit
# ---
names = ["field", "forest", "water", "road", "building"]
seg = SemanticSegmentor("multiclass", classes=names, backbone="mobile_sam", path=work / "model", verbosity=1)
seg.fit(train, time_limit=180, hyperparameters={"image_size": 256})
print(f"mean IoU on validation pieces: {seg.best_score_:.3f}")

# %%
# In tiles, or seen whole
# -----------------------
# With ``tile="auto"``, the default, the scene is cut because its long side is more than twice that of any
# training picture. ``tile=None`` scales it down to the model's size instead, where small things vanish.
scores = {
    "in tiles": seg.evaluate(scene, per_class=True)["iou"],
    "seen whole": seg.evaluate(scene, per_class=True, tile=None)["iou"],
}
pd.DataFrame(scores).round(3)

# %%
# Look
# ----
picture, truth = (Image.open(scene[column][0]) for column in ("image", "label"))
colours = class_colours(len(names))
shown = {
    "scene": np.asarray(picture),
    "truth": colours[np.asarray(truth)],
    "in tiles": colours[seg.predict(scene)[0]],
    "seen whole": colours[seg.predict(scene, tile=None)[0]],
}
figure, axes = plt.subplots(2, 2, figsize=(11, 8.6), layout="constrained")
for ax, (name, pixels) in zip(axes.flat, shown.items(), strict=True):
    ax.imshow(pixels)
    ax.set_title(name)
    ax.set_axis_off()

# %%
# Many scenes
# -----------
# With ``output_dir`` masks are written one by one, each whole or not at all, and finished ones are skipped
# when it is run again.
paths = seg.predict(scene, output_dir=work / "masks")
print(Path(paths[0]).name)

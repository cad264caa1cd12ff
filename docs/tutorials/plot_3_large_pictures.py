"""
Large aerial pictures
=====================
Trained on pieces of a few hundred pixels, used on a whole scene. A scene that is much larger than the
training pictures is cut into overlapping tiles, the tiles' logits are blended, and the mask is decided row
by row.
"""

# %%
# Pieces to learn from
# --------------------
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from semseg_automl import SemanticSegmentor, datasets

data = os.environ.get("SEMSEG_AUTOML_DATA")
work = Path(tempfile.mkdtemp())
if data:
    folder = Path(data) / "landcover_dubai"
    table = pd.read_csv(folder / "train.csv").head(24)
    table[["image", "label"]] = table[["image", "label"]].map(lambda path: str(folder / path))
else:
    table = datasets.make_textures(work / "pieces", n=24, size=(128, 160), n_classes=4, seed=2)
train, rest = table[:-4], table[-4:]

# %%
# Fit
# ---
backbone = "mobile_sam" if os.environ.get("SEMSEG_AUTOML_WEIGHTS") else "sam_tiny"
seg = SemanticSegmentor("multiclass", backbone=backbone, path=work / "model", verbosity=1)
seg.fit(train, time_limit=120, hyperparameters={"image_size": 256})
seg.evaluate(rest)

# %%
# A scene
# -------
# Four of the remaining pieces, put together three by three: nine times the area of a training picture.
pieces = [np.asarray(Image.open(path).convert("RGB")) for path in rest["image"]]
height, width = min(p.shape[0] for p in pieces), min(p.shape[1] for p in pieces)
rows = [np.hstack([pieces[(3 * r + c) % 4][:height, :width] for c in range(3)]) for r in range(3)]
scene = work / "scene.png"
Image.fromarray(np.vstack(rows)).save(scene)
print(Image.open(scene).size)

# %%
# With ``tile="auto"``, the default, the scene is cut because its long side is more than twice that of any
# training picture. ``tile=None`` scales it down to the model's size instead, where small things vanish.
masks = {"in tiles": seg.predict(scene), "seen whole": seg.predict(scene, tile=None)}

# %%
# Look
# ----
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
axes[0].imshow(Image.open(scene))
for ax, (name, mask) in zip(axes[1:], masks.items(), strict=True):
    if mask.ndim == 3:  # colour codes are shown as they are
        ax.imshow(mask)
    else:
        ax.imshow(mask, interpolation="nearest", cmap="tab10", vmin=0, vmax=9)
    ax.set_title(name)
for ax in axes:
    ax.set_axis_off()

# %%
# Many scenes
# -----------
# With ``output_dir`` masks are written one by one, each whole or not at all, and finished ones are skipped
# when it is run again.
paths = seg.predict([str(scene)], output_dir=work / "masks")
print(Path(paths.iloc[0]).name)

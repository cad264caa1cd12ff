"""
One kind of object: polyps, cells, lesions
==========================================
Two classes, background and object. What matters in medicine: no patient on both sides of the split, a score
for each picture, and a threshold that can be moved.
"""

# %%
# The table
# ---------
# Columns ``image`` and ``label``, and one more that says which pictures belong together.
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

from semseg_automl import SemanticSegmentor, datasets

data = os.environ.get("SEMSEG_AUTOML_DATA")
work = Path(tempfile.mkdtemp())
if data:
    folder = Path(data) / "polyp_clinicdb"
    table = pd.read_csv(folder / "train.csv").head(60)
    table[["image", "label"]] = table[["image", "label"]].map(lambda path: str(folder / path))
else:
    table = datasets.make_textures(work / "pictures", n=30, size=(128, 160), n_classes=2)
table["patient"] = [f"patient {i // 3}" for i in range(len(table))]
train, test = table[:-6], table[-6:]
table.head(3)

# %%
# Fit
# ---
# ``groups`` keeps a patient on one side of the split between training and validation. Drop
# ``hyperparameters`` and ask for ten minutes or more when it counts: here it must be quick.
backbone = "mobile_sam" if os.environ.get("SEMSEG_AUTOML_WEIGHTS") else "sam_tiny"
seg = SemanticSegmentor("binary", backbone=backbone, path=work / "model", verbosity=1)
seg.fit(train, groups="patient", time_limit=120, hyperparameters={"image_size": 256})
print(seg.classes_, seg.class_values_, f"IoU on the validation pictures: {seg.best_score_:.3f}")

# %%
# Scores
# ------
# Over the whole table with an interval from resampling the pictures, then for each picture, worst first.
seg.evaluate(test, ["iou", "dice", "s_measure"], confidence=0.95)

# %%
seg.evaluate(test, per_image=True).sort_values("iou").head()

# %%
# Look
# ----
seg.plot_predictions(test, n=3).save(work / "look.png")
figure, ax = plt.subplots(figsize=(9, 7), layout="constrained")
ax.imshow(Image.open(work / "look.png"))
ax.set_axis_off()

# %%
# A more careful threshold
# ------------------------
# Probabilities are there to be thresholded anew: a lower threshold misses less and raises more false alarms.
odds = seg.predict_proba(test)
shares = {t: sum((p[1] >= t).mean() for p in odds) / len(odds) for t in (0.2, 0.5, 0.8)}
pd.Series(shares, name="share of pixels called object").rename_axis("threshold")

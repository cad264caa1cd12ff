"""
One kind of object: cells, polyps, lesions
==========================================
Two classes, background and object. What matters in medicine: no patient on both sides of the split, a score
for each picture, and a threshold that can be moved.
"""

# %%
# The table
# ---------
# Columns ``image`` and ``label``, and one more that says which pictures belong together. These pictures are
# generated: stained cells, on tissue with pale ghosts and small debris that are no cells. Your own come from
# ``datasets.from_folders("images", "masks")`` or a csv.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from semseg_automl import SemanticSegmentor, datasets

work = Path(tempfile.mkdtemp())
table = datasets.make_cells(work / "cells", n=40, size=(192, 256))
table["patient"] = [f"patient {i // 4}" for i in range(len(table))]
train, test = table[:32], table[32:]  # eight patients, and two whom the fit never sees
train.head(3).map(lambda cell: Path(cell).name)

# %%
# Fit
# ---
# ``groups`` keeps a patient on one side of the split between training and validation. Two and a half minutes,
# with pictures seen at 256 pixels, do for these; when it counts, ask for ten minutes or more and drop
# ``hyperparameters``.
seg = SemanticSegmentor("binary", backbone="mobile_sam", path=work / "model", verbosity=1)
seg.fit(train, groups="patient", time_limit=150, hyperparameters={"image_size": 256})
print(f"IoU on the validation pictures: {seg.best_score_:.3f}")

# %%
# Scores
# ------
# Over the whole table, with an interval from resampling the pictures.
seg.evaluate(test, ["iou", "dice", "s_measure", "boundary_f"], confidence=0.95).round(3)

# %%
# And for each picture, worst first.
seg.evaluate(test, per_image=True).sort_values("iou").round(3)

# %%
# Look
# ----
seg.plot_predictions(test, n=3)

# %%
# A more careful threshold
# ------------------------
# Probabilities are there to be thresholded anew: a lower threshold misses less and raises more false alarms.
odds = seg.predict_proba(test)
truth = [plt.imread(path) > 0 for path in test["label"]]
rows = []
for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
    found = [p[1] >= threshold for p in odds]
    hits = sum((f & t).sum() for f, t in zip(found, truth, strict=True))
    missed = 1 - hits / sum(t.sum() for t in truth)
    false = 1 - hits / max(1, sum(f.sum() for f in found))
    rows.append({"threshold": threshold, "missed": missed, "false alarms": false})
pd.DataFrame(rows).set_index("threshold").round(3)

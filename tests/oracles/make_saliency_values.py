"""Write saliency_values.json: what pysodmetrics and scikit-image say about the pictures of ``cases``.

pysodmetrics pins other versions than this project needs, so it runs in an environment of its own:

    pip install pysodmetrics==1.6.2    # brings scikit-image
    python tests/oracles/make_saliency_values.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

VALUES = Path(__file__).with_name("saliency_values.json")


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By name: probabilities (H, W) float64 in 0..1 and true foreground (H, W) bool."""
    found = {}
    rows, columns = np.mgrid[:40, :56]
    disk = (rows - 18) ** 2 + (columns - 30) ** 2 < 110
    ring = disk & ((rows - 18) ** 2 + (columns - 30) ** 2 > 40)
    slope = columns / 55.0
    zero, one = np.zeros((40, 56)), np.ones((40, 56))
    shifted = np.roll(disk, (3, -4), (0, 1))
    found["perfect"] = disk * 1.0, disk
    found["inverted"] = 1.0 - disk, disk
    found["shifted"] = shifted * 0.9 + 0.05, disk
    found["slope"] = slope, disk
    found["ring"] = np.clip(ring * 0.8 + slope * 0.2, 0, 1), ring
    found["single_pixel"] = slope, (rows == 7) & (columns == 9)
    found["corner"] = 1 - slope, (rows < 8) & (columns < 5)
    found["truth_empty"] = slope, np.zeros((40, 56), bool)
    found["truth_full"] = slope, np.ones((40, 56), bool)
    found["all_one"] = one, disk
    found["all_zero"] = zero, disk
    found["both_empty"] = zero, np.zeros((40, 56), bool)
    found["both_full"] = one, np.ones((40, 56), bool)
    found["half"] = one / 2, disk
    for seed in range(8):
        rng = np.random.default_rng(seed)
        size = (int(rng.integers(9, 60)), int(rng.integers(9, 60)))
        truth = rng.random(size) < rng.random()
        if seed % 2:  # smoother, as masks are
            truth = sum(np.roll(truth, (i, j), (0, 1)) for i in range(3) for j in range(3)) > 4
        found[f"random_{seed}"] = np.clip(rng.random(size) * 0.7 + truth * 0.3 * (seed % 3), 0, 1), truth
    return found


def main() -> None:
    """Ask the libraries and store their answers with their versions."""
    from importlib import metadata

    import skimage
    from py_sod_metrics import MAE, Emeasure, Fmeasure, Smeasure, WeightedFmeasure
    from skimage.morphology import skeletonize, thin

    values = {}
    for name, (probability, truth) in cases().items():
        row = {}
        for key, metric in (
            ("s", Smeasure()),
            ("e", Emeasure()),
            ("wf", WeightedFmeasure()),
            ("f", Fmeasure()),
            ("mae", MAE()),
        ):
            metric.step(probability, truth, normalize=False)
            row[key] = metric.get_results()
        values[name] = {
            "s_measure": float(row["s"]["sm"]),
            "e_measure": float(row["e"]["em"]["curve"].mean()),
            "weighted_f_measure": float(row["wf"]["wfm"]),
            "f_measure": float(row["f"]["fm"]["adp"]),
            "mae": float(row["mae"]["mae"]),
            "thin": np.flatnonzero(thin(truth)).tolist(),
            "skeletonize": np.flatnonzero(skeletonize(truth)).tolist(),
        }
    versions = {"pysodmetrics": metadata.version("pysodmetrics"), "scikit-image": skimage.__version__}
    rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in values.items())
    VALUES.write_text(f'{{"versions": {json.dumps(versions)}, "values": {{\n{rows}\n}}}}\n')


if __name__ == "__main__":
    main()

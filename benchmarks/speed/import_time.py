"""What importing the package costs, against its own floor: ``sklearn.base`` and ``pandas``, in the same run.

    python benchmarks/speed/import_time.py [--runs 9]

Fresh processes, the two variants in turn; the ratio of the medians must stay at or below 1.3, and
torch, lightning and optuna must not be loaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

BAR = 1.3
TWIN = "import sklearn.base, pandas"
OURS = "from semseg_automl import SemanticSegmentor; SemanticSegmentor()"
TIMED = "import sys, time; t = time.perf_counter(); {code}; print(time.perf_counter() - t, {loaded})"
LOADED = "any(m in sys.modules for m in ('torch', 'lightning', 'optuna'))"


def measure(code: str) -> tuple[float, bool]:
    """Seconds of one fresh process, and whether a heavy package was loaded."""
    command = [sys.executable, "-c", TIMED.format(code=code, loaded=LOADED)]
    seconds, loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), loaded == "True"


def main() -> int:
    """Measure, write the JSON, return 1 if the bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    pairs = [(measure(TWIN), measure(OURS)) for _ in range(runs + 1)][1:]  # the first fills the disk cache
    twin = statistics.median(t for (t, _), _ in pairs)
    ours = statistics.median(t for _, (t, _) in pairs)
    heavy = any(loaded for _, (_, loaded) in pairs)
    result = {
        "twin_seconds": round(twin, 4),
        "ours_seconds": round(ours, 4),
        "ratio": round(ours / twin, 3),
        "bar": BAR,
        "loads_torch_lightning_or_optuna": heavy,
        "runs": runs,
    }
    path = Path(__file__).parent / "results" / "import_time.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return int(heavy or ours / twin > BAR)


if __name__ == "__main__":
    sys.exit(main())

"""``python -m semseg_automl``: the command line where the script ``semseg-automl`` is not on the path."""

from __future__ import annotations

import sys

from semseg_automl.cli import main

if __name__ == "__main__":
    sys.exit(main())

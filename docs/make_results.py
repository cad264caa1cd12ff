"""Write README's tables of results from the benchmarks' JSON; a test checks that they are current."""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.quality.trainings import told

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "README.md"
BENCHMARK = ROOT / "benchmarks" / "quality"
START, END = "<!-- results: written by docs/make_results.py -->\n", "<!-- /results -->"
ADAPTERS = "<!-- adapters: written by docs/make_results.py -->\n", "<!-- /adapters -->"


def section() -> str:
    """The section's text; says so where nothing was measured yet."""
    rows = [_row(path) for path in sorted((BENCHMARK / "experiments").glob("*.json"))]
    rows = [row for row in rows if row]
    if not rows:
        return "Not published yet. [benchmarks](benchmarks/README.md) says how they are measured.\n"
    names = (
        "data set",
        "training / test pictures",
        "metric",
        "test score",
        "bar",
        "fit, s",
        "steps",
        "s a step",
        "precision",
        "gate",
        "peak MB",
        "commit",
    )
    head = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return "\n".join([_facts(), "", *head, *rows, ""])


def _facts() -> str:
    result = _results()[0]
    hardware, versions = result["hardware"], result["versions"]
    return (
        f'`SemanticSegmentor(backbone="mobile_sam").fit(train, tuning_data=val, time_limit=600)`, defaults '
        f"otherwise, seed 0, {hardware['cores']} cores ({hardware['processor']}), no GPU, torch "
        f"{versions['torch']}; `evaluate` on the whole test table at full size. How it is measured: "
        "[benchmarks](benchmarks/README.md). Rows in bfloat16 are from a processor that multiplies in it "
        "(AVX-512), rows in float32 from an older one (AVX2) that takes a step about three times as long. "
        "Rows with the learned gate are from before all experts (`dense`) became the default. "
        "Data sets that are not in the table were not run yet."
    )


def _results() -> list[dict[str, Any]]:
    paths = sorted((BENCHMARK / "results").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _row(experiment: Path) -> str:
    path = BENCHMARK / "results" / experiment.name
    if not path.exists():
        return ""
    result = json.loads(path.read_text(encoding="utf-8"))
    spec = result["experiment"]
    pictures = f"{result['n_train']} / {result['n_test']}"
    cells = [
        spec["dataset"], pictures, spec["metric"], f"{result['test'][spec['metric']]:.3f}",
        _bar(spec["bar"], result["test"][spec["metric"]]),
        f"{result['fit_seconds']:.0f}", f"{result['steps']}", f"{result['seconds_per_step']:.2f}",
        {"32-true": "float32"}.get(result["precision"], "bfloat16"), result.get("routing", "learned"),
        f"{result['peak_memory_mb']:,}", f"`{result['commit']}`",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _bar(bar: float | None, score: float) -> str:
    return "none" if bar is None else f"{bar} {'met' if score >= bar else 'missed'}"


def adapters() -> str:
    """The table of adapters that were trained with several seeds, best first on the set with most."""
    cost = json.loads((BENCHMARK / "results" / "adapters_cost.json").read_text(encoding="utf-8"))["methods"]
    found = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((BENCHMARK / "results" / "adapters_by_steps").glob("*/*.json"))
    ]
    scored = [r for r in found if r.get("test_score") is not None]
    methods_on = Counter(name for name, _ in {(r["set"], r["method"]) for r in scored})
    sets = sorted(methods_on, key=lambda name: (-methods_on[name], name))
    scores = {
        method: [[r["test_score"] for r in scored if (r["method"], r["set"]) == (method, s)] for s in sets]
        for method in dict.fromkeys(r["method"] for r in scored)
    }
    best_first = sorted(scores, key=lambda method: -statistics.fmean(scores[method][0] or [0.0]))
    heads = [f"{name}, {next(r['metric'] for r in scored if r['set'] == name)}" for name in sets]
    lines = [
        f"| method | {' | '.join(heads)} | trained | s a step | peak MB | steps |",
        "|---" * (len(heads) + 5) + "|",
    ]
    for method in best_first:
        of = cost[method]
        steps = max(r["steps"] for r in scored if r["method"] == method)
        facts = (
            f"{of['n_trainable']:,}",
            f"{of['seconds_per_step']:.2f}",
            f"{of['peak_memory_mb']:,.0f}",
            steps,
        )
        cells = [*map(told, scores[method]), *map(str, facts)]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def page() -> str:
    """README with its sections made anew."""
    text = TARGET.read_text(encoding="utf-8")
    for (start, end), made in (((START, END), section()), (ADAPTERS, adapters())):
        before, rest = text.split(start)
        text = before + start + made + end + rest.split(end, 1)[1]
    return text


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")

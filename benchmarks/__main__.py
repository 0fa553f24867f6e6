"""Print the ratios as a table, and write them with every single measurement as JSON."""

import argparse
import importlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.measure import Comparison, table
from benchmarks.settings import Settings, find_settings

# Each module has a function compare(settings) -> list[Comparison].
GROUPS = (
    "encoding",
    "features",
    "image_reading",
    "rkd",
    "retrieval",
    "targets",
    "kmeans",
    "commands",
    "objectives",
    "step",
    "heads",
)


def main() -> None:
    """Measure on the CPU, whatever else this machine is doing; only ratios are worth quoting."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--only", choices=GROUPS, action="append", help="This group alone; repeatable.")
    parser.add_argument("--pairs", type=int, default=5, help="Timed pairs of each comparison.")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks.json"), help="Where the JSON goes.")
    options = parser.parse_args()
    settings = find_settings(num_pairs=options.pairs)
    comparisons: list[Comparison] = []
    for group in options.only or GROUPS:
        compare: Callable[[Settings], list[Comparison]] = importlib.import_module(f"benchmarks.{group}").compare
        compared = compare(settings)
        print(f"{group}\n{table(compared)}\n" if compared else "", end="\n", flush=True)
        comparisons += compared
        write_json(options.out, comparisons)
    print(f"Medians, with the least and the greatest in brackets. Every measurement: {options.out}")


def write_json(path: Path, comparisons: list[Comparison]) -> None:
    """Write the machine and every measurement."""
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    results = [asdict(each) | {"ratios": each.ratios, "shares": each.shares} for each in comparisons]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

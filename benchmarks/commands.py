"""Time commands that have nothing to compute, each a process of its own, against Python that starts and ends."""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Comparison, compare_time
from benchmarks.settings import Settings
from data_schemas.artifact_record import ArtifactRecord

NUM_PAIRS, NUM_ARTIFACTS = 20_000, 1000
_ROOT = Path(__file__).parents[1]
_WORDS = [f"word{number}" for number in range(200)]


def compare(settings: Settings) -> list[Comparison]:
    """Compare on a manifest of 20,000 images, and on a store of 1,000 artifacts."""
    return compare_commands(num_pairs=NUM_PAIRS, num_artifacts=NUM_ARTIFACTS, num_calls=settings.num_pairs)


def compare_commands(*, num_pairs: int, num_artifacts: int, num_calls: int) -> list[Comparison]:
    """Compare the time of whole commands; the budget of each, in seconds, is in its name.

    Args:
        num_pairs: Pairs of the manifest, each with an image of its own.
        num_artifacts: Artifacts of the larger store.
        num_calls: Timed pairs of calls.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _make_data(root, num_pairs)
        stages = _stages(root)
        store = ("--store", str(root / "store"))
        for words in stages.values():
            _run(*words, *store)
        many = ("--store", str(_many_artifacts(root, num_artifacts)))
        size = f"{num_artifacts:,} artifacts"
        commands = {
            "--help (0.3 s)": ("--help",),
            "evaluate --help (0.3 s)": ("evaluate", "--help"),
            **{f"{name} unchanged, {num_pairs:,} pairs (1.5 s)": (*words, *store) for name, words in stages.items()},
            f"status of {size} (1 s)": ("status", *many),
            f"why distill, {size} and {num_pairs:,} pairs (1 s)": ("why", *stages["distill"], "--lr", "1e-3", *many),
        }
        return [
            compare_time(
                name,
                baseline_name="python -c pass",
                baseline=lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
                ours=_command(words),
                num_pairs=num_calls,
            )
            for name, words in commands.items()
        ]


def _command(words: tuple[str, ...]) -> Callable[[], None]:
    def call() -> None:
        _run(*words)

    return call


def _run(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "cli", *words], cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} must run; {done.stderr}")


def _stages(root: Path) -> dict[str, tuple[str, ...]]:
    manifest, teacher = str(root / "pairs.tsv"), str(root / "words.txt")
    small = ("--student", "squeezenet1_1", "--image-size", "32", "--workers", "0")
    return {
        "encode-teacher": ("encode-teacher", "--manifest", manifest, "--teacher", teacher),
        "prototypes": ("prototypes", "--num-prototypes", "8", "--iterations", "2"),
        "distill": (
            "distill",
            *small,
            "--epochs",
            "1",
            "--episode-size",
            "128",
            "--loss",
            "simreg=1",
            "--precision",
            "fp32",
        ),
        "evaluate": ("evaluate", "--retrieval", str(root / "few.tsv"), "--no-overlap", "--workers", "0"),
    }


def _make_data(root: Path, num_pairs: int) -> None:
    """Write images that differ only in their last bytes, and captions of made-up words."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "first.jpg")
    content = (root / "first.jpg").read_bytes()
    rows = []
    for number in range(num_pairs):
        path = f"{number % 100:02d}/{number}.jpg"
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(content + number.to_bytes(4, "little"))
        words = (_WORDS[number * step // 7 % len(_WORDS)] for step in (1, 3, 5, 11))
        rows.append(f"{path}\t{' '.join(words)} {number}\n")
    (root / "pairs.tsv").write_text("filepath\ttitle\n" + "".join(rows))
    (root / "few.tsv").write_text("filepath\ttitle\n" + "".join(rows[:100]))
    vectors = np.random.default_rng(0).normal(size=(len(_WORDS), 16)).round(3).tolist()
    lines = [f"{word} {' '.join(map(str, vector))}\n" for word, vector in zip(_WORDS, vectors, strict=True)]
    (root / "words.txt").write_text("".join(lines))


def _many_artifacts(root: Path, num: int) -> Path:
    """Fill a store with equally many copies of each stage's artifact; their files are links to the original."""
    store, stages = root / "many", ("encode-teacher", "prototypes", "distill", "evaluate")
    for stage in stages:
        [made] = [path.parent for path in (root / "store" / stage).glob("*/artifact.json")]
        record = ArtifactRecord.read(made)
        for number in range(num // len(stages)):
            start = f"{number:08x}"
            copy = dataclasses.replace(
                record,
                fingerprint=start + record.fingerprint[8:],
                digest=start + record.digest[8:],
                params={**record.params, "copy": number},
            )
            folder = store / stage / copy.fingerprint
            for file in record.files:
                (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
                os.link(made / file.path, folder / file.path)
            copy.write(folder)
    shutil.copy(root / "store" / "file-digests.sqlite", store)
    return store

"""Building blocks of fixtures and tests: small images with captions, a tiny teacher, the command line in-process."""

import contextlib
import csv
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
PROCESS_TIMEOUT_S = 240

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "grey", "black")
SHAPES = ("circle", "square", "stripe")
NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (*COLOURS, *SHAPES, *NUMERALS)
VECTOR_DIM = 16


SMALL = ("--image-size", 32, "--batch-size", 8, "--warmup-steps", 0, "--workers", 0, "--device", "cpu")
# 24 pairs, 3 steps an epoch; this student has dropout, so that its weights tell where the random numbers stand.
DISTILL = ("distill", *SMALL, "--precision", "fp32", "--student", "squeezenet1_1", "--epochs", 2, "--lr", 1e-3)

FEATURES = ("encode-images", "--backbone", "squeezenet1_1", "--image-size", "32", "--device", "cpu", "--workers", "0")


@dataclass(frozen=True)
class Pairs:
    """A folder of images and their manifest."""

    root: Path
    manifest: Path
    images: tuple[str, ...]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Cli:
    """The command line, in this process.

    Args:
        store: Value of ``--store`` where a call names none.
    """

    store: Path

    def __call__(self, *args: object) -> dict[str, Any]:
        """Run a stage that must succeed; return its JSON."""
        result = self.run(*args, "--json")
        assert result.exit_code == 0, result.output
        [line] = result.stdout.splitlines()
        values: dict[str, Any] = json.loads(line)
        return values

    def fails(self, *args: object, status: int = 1) -> str:
        """Run a command that must end in a user's error, or with another status; return its message."""
        result = self.run(*args)
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result.stderr

    def stops(self, *args: object) -> str:
        """Run a command that must end because it was asked to stop; return its message."""
        from cli import STOPPED_STATUS

        return self.fails(*args, status=STOPPED_STATUS)

    def run(self, *args: object) -> Result:
        """Run a command; an exception that is no user's error comes through."""
        from cli import cli

        words = [str(arg) for arg in args]
        if "--store" not in words:
            words += ["--store", str(self.store)]
        return CliRunner().invoke(cli, words, catch_exceptions=False)


@dataclass(frozen=True)
class Trained:
    """A store in which the training that ``DISTILL`` asks for has run undisturbed; never written to."""

    store: Path
    outcome: dict[str, Any]


def make_pairs(root: Path, num: int, size: int) -> Pairs:
    """Draw images of a shape in a colour, a different one each up to 24, with captions that say it."""
    root.mkdir(parents=True, exist_ok=True)
    images = tuple(f"images/{index:03}.jpg" for index in range(num))
    (root / "images").mkdir(exist_ok=True)
    captions = []
    for index, name in enumerate(images):
        colour, shape = COLOURS[index % len(COLOURS)], SHAPES[index // len(COLOURS) % len(SHAPES)]
        draw_image(root / name, colour, shape, size)
        captions.append(f"{colour} {shape}")
    return Pairs(root, make_manifest(root / "pairs.tsv", images, captions), images, tuple(captions))


def draw_image(path: Path, colour: str, shape: str, size: int) -> None:
    """Save one coloured shape on white as a JPEG."""
    image = Image.new("RGB", (size, size), "white")
    draw, box = ImageDraw.Draw(image), (size // 5, size // 5, size - size // 5, size - size // 5)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.rectangle((0, size // 3, size, size - size // 3), fill=colour)
    image.save(path, quality=95)


def make_manifest(path: Path, images: Sequence[str], captions: Sequence[str]) -> Path:
    """Write a TSV with the columns filepath and title."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["filepath", "title"])
        writer.writerows(zip(images, captions, strict=True))
    return path


def make_word_vectors(path: Path) -> Path:
    """Write a teacher: a file of word vectors in GloVe's text format."""
    numbers = np.random.default_rng(0).normal(size=(len(WORDS), VECTOR_DIM))
    lines = [f"{word} {' '.join(f'{x:.4f}' for x in row)}\n" for word, row in zip(WORDS, numbers, strict=True)]
    path.write_text("".join(lines))
    return path


def make_backbone_weights(path: Path) -> Path:
    """Save random weights of the backbone that `FEATURES` names, in its own layout."""
    import safetensors.torch
    import torch

    from stages.components.backbones.registry import find_family

    family, name = find_family(FEATURES[FEATURES.index("--backbone") + 1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = family.build(name, image_size=32, pooling="native").network
    safetensors.torch.save_file(network.state_dict(), path)
    return path


def make_bert(root: Path, *, seed: int) -> Path:
    """Save a tiny BERT as a sentence-transformers folder; at most 32 tokens."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    transformers.utils.logging.disable_progress_bar()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=VECTOR_DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.BertModel(config).save_pretrained(root / "plain")
    tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(root / "plain")
    layers = [modules.Transformer(str(root / "plain")), modules.Pooling(VECTOR_DIM, pooling_mode="mean")]
    SentenceTransformer(modules=[*layers, modules.Normalize()], device="cpu").save(str(root / "saved"))
    return root / "saved"


def with_prompts(
    folder: Path, target: Path, prompts: dict[str, str | None], *, default: str | None = None, in_mean: bool = True
) -> Path:
    """Copy a teacher's folder, and register prompts in it, whose tokens count in the mean or not."""
    shutil.copytree(folder, target)
    changes = {
        "config_sentence_transformers.json": {"prompts": prompts, "default_prompt_name": default},
        "1_Pooling/config.json": {"include_prompt": in_mean},
    }
    for name, entries in changes.items():
        (target / name).write_text(json.dumps(json.loads((target / name).read_text()) | entries))
    return target


def counted_captions(num: int) -> list[str]:
    """Make distinct captions of distinct meaning: numbers, digit by digit."""
    return [" ".join(NUMERALS[int(digit)] for digit in str(number)) for number in range(num)]


@contextlib.contextmanager
def at_step(step: int, action: Callable[[], object]) -> Iterator[None]:
    """Do something inside the step that follows after ``step`` are done."""
    from stages.distill.training.loop import Training

    real = Training._sync_ranks

    def sync_ranks(training: Training, *args: Any) -> Any:
        if training._progress.step == step:
            action()
        return real(training, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_sync_ranks", sync_ranks)
        yield


def start_process(*words: object, script: Path = ROOT / "cli.py") -> "subprocess.Popen[str]":
    """Start the command line, or a script that ends in it, as a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: "subprocess.Popen[str]", store: Path, pattern: str) -> None:
    """Wait until a file is in the store while the process still works."""
    deadline = time.monotonic() + PROCESS_TIMEOUT_S
    while not list(store.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def power_cut() -> None:
    raise RuntimeError("power cut")


@contextlib.contextmanager
def met() -> Iterator[Any]:
    """Meet the other ranks, and leave them."""
    from stages.components.compute.distributed import join_ranks

    ranks = join_ranks()
    yield ranks
    ranks.leave()


def on_ranks(size: int, work: Callable[[Any], Any], *, meet: Any = met) -> list[Any]:
    """Run a function on several processes that have met, as under torchrun; return what each returns, by rank.

    The processes are forked, so ``work`` may be any function; tensors come back as numpy arrays. Work that meets by
    itself, as commands do, is given ``meet=contextlib.nullcontext``.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}

    def run(rank: int) -> None:
        os.environ.update(meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        with meet() as ranks:
            results.put((rank, work(ranks)))

    processes = [context.Process(target=run, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        by_rank = dict(results.get(timeout=60) for _ in processes)
    finally:
        for process in processes:
            process.join(timeout=60)
            process.kill()
    assert [process.exitcode for process in processes] == [0] * size
    return [by_rank[rank] for rank in range(size)]

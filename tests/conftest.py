"""Fixtures for all tests; their building blocks are in workbench.py."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsing import started_browser
from workbench import (
    DISTILL,
    Cli,
    Pairs,
    Trained,
    make_backbone_weights,
    make_bert,
    make_manifest,
    make_pairs,
    make_word_vectors,
    start_process,
)

pytest.register_assert_rewrite("image_set_contract", "store_contract")

if TYPE_CHECKING:
    from object_server import ObjectServer

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported: no test reaches the network
os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors: a second thread costs more than it brings, most on busy machines


@pytest.fixture(autouse=True, scope="session")
def quick_disk() -> Iterator[None]:
    """Leave out the wait for the disk, which only a power cut can tell; tests of that put their own in its place."""
    connect = sqlite3.connect

    def connect_without_waiting(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        with contextlib.suppress(sqlite3.Error):  # no database: that is for whoever asked to find out
            connection.execute("PRAGMA synchronous = OFF")
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(os, "sync", lambda: None)
        patch.setattr(sqlite3, "connect", connect_without_waiting)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def run_cli(store: Path) -> Cli:
    return Cli(store)


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Write image-caption pairs as a TSV; the images need not exist."""

    def write(captions: Sequence[str], name: str = "pairs.tsv", images: Sequence[str] = ()) -> Path:
        return make_manifest(tmp_path / name, images or [f"{index}.jpg" for index in range(len(captions))], captions)

    return write


@pytest.fixture
def pairs_folder(tmp_path: Path) -> Callable[[int, int], Pairs]:
    """Draw ``num`` coloured shapes of ``size`` pixels, with captions and a manifest."""
    return lambda num, size: make_pairs(tmp_path / "pictures", num, size)


@pytest.fixture(scope="session")
def word_vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a teacher: a file of word vectors in GloVe's text format."""
    return make_word_vectors(tmp_path_factory.mktemp("vectors") / "words.txt")


@pytest.fixture(scope="session")
def backbone_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save random weights of the small backbone that `FEATURES` names."""
    return make_backbone_weights(tmp_path_factory.mktemp("weights") / "backbone.safetensors")


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a teacher: a sentence-transformers model, a BERT of two narrow layers with random weights and dropout."""
    return make_bert(tmp_path_factory.mktemp("bert"), seed=0)


@pytest.fixture(scope="session")
def encoded_session(tmp_path_factory: pytest.TempPathFactory, word_vectors: Path) -> tuple[Path, Pairs]:
    """Make a store with the captions of 24 images embedded, to be copied and never written to."""
    root = tmp_path_factory.mktemp("encoded")
    pairs = make_pairs(root / "pictures", 24, 40)
    Cli(root / "store")("encode-teacher", "--manifest", pairs.manifest, "--teacher", word_vectors)
    return root / "store", pairs


@pytest.fixture
def encoded(encoded_session: tuple[Path, Pairs], store: Path) -> Pairs:
    """Copy 24 images, and their embedded captions into this test's own store."""
    shutil.copytree(encoded_session[0], store)
    return encoded_session[1]


@pytest.fixture
def quiet_log() -> Iterator[None]:
    """Take back what the command line does to the log, so that ``caplog`` sees its lines."""
    from pipeline.log import log

    handlers, propagate, level = log.handlers[:], log.propagate, log.level
    log.handlers[:], log.propagate, log.level = [], True, 0
    yield
    log.handlers[:], log.propagate, log.level = handlers, propagate, level


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, encoded_session: tuple[Path, Pairs]) -> Trained:
    store = shutil.copytree(encoded_session[0], tmp_path_factory.mktemp("undisturbed") / "store")
    return Trained(store, Cli(store)(*DISTILL))


@pytest.fixture
def trained(undisturbed: Trained, store: Path) -> dict[str, Any]:
    """Copy the undisturbed training into this test's own store."""
    shutil.copytree(undisturbed.store, store)
    return undisturbed.outcome


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a headless Chromium."""
    with started_browser() as started:
        yield started


@pytest.fixture
def start(store: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command on this test's store as a process of its own; none outlives the test."""
    processes: list[subprocess.Popen[str]] = []

    def run(*words: object, **options: Any) -> "subprocess.Popen[str]":
        processes.append(start_process(*words, "--store", store, **options))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def object_server() -> "Iterator[ObjectServer]":
    """Start an object store that speaks S3, for the whole session; `bucket` makes a bucket for each test."""
    from object_server import serve  # moto takes a second to import

    yield from serve()


@pytest.fixture
def bucket_server(object_server: "ObjectServer", monkeypatch: pytest.MonkeyPatch) -> "ObjectServer":
    """Name the server in this test's environment."""
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    return object_server


@pytest.fixture
def bucket(bucket_server: "ObjectServer") -> str:
    """Make an empty bucket, and give its URL; its server's faults and counts are forgotten."""
    return f"s3://{bucket_server.bucket()}"

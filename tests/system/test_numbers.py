"""Numbers at the edge, through the command line: whatever comes, it is done, or refused with what to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from workbench import DISTILL, Cli, Pairs, draw_image, make_manifest

DONE, REFUSED = 0, 1
ONE_EPOCH = (*DISTILL, "--epochs", 1)
EVALUATE = ("evaluate", "--device", "cpu", "--workers", 0, "--num-resamples", 100)


@dataclass(frozen=True)
class Case:
    """What is asked for, and what comes of it.

    Args:
        words: Words of the command line; FOLDER is a folder with a class, TSV the manifest.
        status: Exit status.
        said: Text that must be on stderr or stdout.
        captions: Captions that are encoded before, one per image; none where the store's 24 captions serve.
        vectors: Vectors of the teacher, by word; none for the tests' own.
    """

    words: tuple[object, ...]
    status: int
    said: tuple[str, ...]
    captions: tuple[str, ...] = ()
    vectors: str = ""


ENCODE = ("encode-teacher", "--manifest", "TSV", "--teacher", "VECTORS")
TWO = ("red", "blue")
CASES = {
    "teacher, too large for half precision": Case(
        ENCODE,
        REFUSED,
        ("float16 cannot hold 70000 (caption 'blue'). Use --embedding-dtype float32.",),
        captions=TWO,
        vectors="red 1 2 3\nblue 1 70000 2\n",
    ),
    "teacher, too small for half precision": Case(
        ENCODE,
        REFUSED,
        ("float16 makes zeros of all those of 1 captions, first 'blue'. Use --embedding-dtype float32.",),
        captions=TWO,
        vectors="red 1 2 3\nblue 1e-9 1e-9 -2e-9\n",
    ),
    "teacher, small, in single precision": Case(
        (*ENCODE, "--embedding-dtype", "float32"),
        DONE,
        ("zero captions                    0",),
        captions=TWO,
        vectors="red 1 2 3\nblue 1e-9 1e-9 -2e-9\n",
    ),
    "teacher, no numbers": Case(
        ENCODE,
        REFUSED,
        ("it gave NaN or infinity for 1 captions, first 'blue'. Look at the teacher's weights.",),
        captions=TWO,
        vectors="red 1 2 3\nblue 1 nan 2\n",
    ),
    "zero vectors, encoded": Case(
        ENCODE, DONE, ("zero captions                    1",), captions=("unheard of", "unheard of", "red")
    ),
    "zero vectors alone, distilled": Case(
        ONE_EPOCH,
        REFUSED,
        ("got 0 of 3, for 0 images are missing, and the teacher knows no word of 3 captions.",),
        captions=("unheard of",) * 3,
    ),
    "zero vectors alone, clustered": Case(
        ("prototypes", "--num-prototypes", 2),
        REFUSED,
        ("The teacher must know some of the captions; got 1 zero vectors and nothing else.",),
        captions=("unheard of",) * 3,
    ),
    "zero vectors among others, distilled": Case(
        (*ONE_EPOCH, "--loss", "rkd=1"),
        DONE,
        ("zero captions left out           2",),
        captions=("unheard of", "unheard of", "red circle", "blue"),
    ),
    "one caption for all images, distilled": Case(
        (*ONE_EPOCH, "--loss", "infonce=1", "--loss", "rkd=1"),
        DONE,
        ("distill created",),
        captions=("red circle",) * 24,
    ),
    "one caption for all images, by prototypes": Case(
        (*ONE_EPOCH, "--loss", "proto-rkd=1"),
        REFUSED,
        ("relates to prototypes must have 2 distinct captions or more; got 1.",),
        captions=("red circle",) * 4,
    ),
    "one caption for all images, evaluated": Case(
        (*EVALUATE, "--retrieval", "TSV"),
        DONE,
        ("text_to_image/recall@1",),
        captions=("red circle",) * 4,
    ),
    "more prototypes than captions": Case(
        ("prototypes", "--num-prototypes", 100),
        REFUSED,
        ("--num-prototypes must be at most 24, the number of distinct captions; got 100. Ask for fewer",),
    ),
    "more prototypes of an objective than captions": Case(
        (*ONE_EPOCH, "--loss", "proto-rkd=1", "--loss-option", "proto-rkd.num-prototypes=1000"),
        DONE,
        ("6 prototypes in place of 1000, for want of captions",),
    ),
    "more neighbours than training images": Case(
        (*EVALUATE, "--knn", "FOLDER", "--knn-k", 1000),
        REFUSED,
        ("--knn-k must be from 1 to the number of training images, 3; got 1000. Choose fewer neighbours",),
    ),
    "one class, zero-shot": Case((*EVALUATE, "--zero-shot", "FOLDER/test"), DONE, ("zero_shot/top1",)),
    "one class, nearest neighbours": Case((*EVALUATE, "--knn", "FOLDER", "--knn-k", 2), DONE, ("knn/top1",)),
    "one class, linear probe": Case(
        (*EVALUATE, "--linear-probe", "FOLDER"),
        REFUSED,
        ("A linear probe must have two classes or more; got 1. Add classes.",),
    ),
    "a batch of one": Case((*ONE_EPOCH, "--batch-size", 1), REFUSED, ("--batch-size must be 2 or more; got 1.",)),
    "micro-batches of one": Case(
        (*ONE_EPOCH, "--batch-size", 2, "--accumulate-steps", 2),
        REFUSED,
        ("--batch-size must be 4 or more, 2 examples for each process and micro-batch; got 2.",),
    ),
    "a last batch of one": Case((*ONE_EPOCH, "--batch-size", 23), DONE, ("steps                            1",)),
    "a batch of more than all": Case((*ONE_EPOCH, "--batch-size", 999), DONE, ("steps                            1",)),
    "one pair": Case(
        ONE_EPOCH, REFUSED, ("Training must have 2 usable pairs or more; got 1 of 1",), captions=("red circle",)
    ),
    "one image, evaluated": Case(
        (*EVALUATE, "--retrieval", "TSV", "--batch-size", 1),
        DONE,
        ("text_to_image/recall@1",),
        captions=("red circle",),
    ),
}


@pytest.fixture
def one_class(tmp_path: Path) -> Path:
    """Return a folder with train/ and test/ of one class."""
    for split in ("train", "test"):
        (tmp_path / f"class/{split}/red").mkdir(parents=True)
        for number in range(3):
            draw_image(tmp_path / f"class/{split}/red/{number}.jpg", "red", "circle", 24 + number)
    return tmp_path / "class"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_command__gives_a_clear_answer_to(
    case: Case,
    trained: dict[str, Any],
    encoded_session: tuple[Path, Pairs],
    run_cli: Cli,
    word_vectors: Path,
    one_class: Path,
    tmp_path: Path,
) -> None:
    pairs, vectors = encoded_session[1], word_vectors
    if case.vectors:
        vectors = tmp_path / "vectors.txt"
        vectors.write_text(case.vectors)
    captions = case.captions or pairs.captions
    images = [pairs.root / image for image in pairs.images[: len(captions)]]
    manifest = make_manifest(tmp_path / "pairs.tsv", list(map(str, images)), captions)
    places = {"TSV": str(manifest), "VECTORS": str(vectors), "FOLDER": str(one_class)}
    words = [places.get(str(word), str(word).replace("FOLDER", str(one_class))) for word in case.words]
    if case.captions and words[0] in ("distill", "prototypes"):
        run_cli("encode-teacher", "--manifest", manifest, "--teacher", vectors)
    done = run_cli.run(*words, *(["--allow-outside"] if words[0] in ("distill", "evaluate") else []))
    assert done.exit_code == case.status, done.output
    assert "Traceback" not in done.output
    assert case.status == REFUSED or "nan" not in done.output.lower()
    for said in case.said:
        assert said in done.output

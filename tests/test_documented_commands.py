"""The commands of README and docs/ are run, in the order of their pages, in a small world and with small numbers."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_readme import PAGES, commands_of
from workbench import COLOURS, SHAPES, Pairs, draw_picture, make_manifest, make_pairs

# What cannot be run here, and why; such commands are still parsed by test_readme.
_NOT_RUN = {
    "torchrun": "several processes: test_torchrun has them",
    "gather-cc": "asks addresses of the internet",
    "s3://": "asks a bucket",
    "--init-from": "a file that somebody publishes",
    "--serve": "ends by Ctrl-C",
    "--repo": "sends to the hub",
}
# A placeholder stands for an artifact of the stage that the words before it ask for.
_PLACEHOLDER = re.compile(r"(--[a-z]+ |@?\b)?(5c1d0f6a2b7e|9ab3c04d81f2)")
_STAGE_OF = {"--packed": "pack", "--prototypes": "prototypes", "--student": "distill", "--embeddings": "encode-teacher"}
_SMALLER = {
    "distill": "--student squeezenet1_1 --pretrained '' --image-size 32 --batch-size 8 --epochs 1 --episode-size 0 "
    "--warmup-steps 0 --workers 0 --device cpu --precision fp32 --smoothing-landmarks 16 --no-profile --no-checkpoint-gradients",
    "evaluate": "--workers 0 --device cpu --num-resamples 100 --knn-k 3",
    "prototypes": "--num-prototypes 4",
    "encode-teacher": "--device cpu --teacher-precision fp32",
    "pack": "--workers 0",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, word_vectors: Path, bert_folder: Path) -> Iterator[Path]:
    """A folder in which what the pages name is there: manifests, pictures, sets and teachers."""
    root = tmp_path_factory.mktemp("world")
    pairs = make_pairs(root, 24, 40)
    for name in ("train.tsv", "test.tsv"):
        make_manifest(root / name, pairs.images, pairs.captions)
    shutil.copytree(root / "images", root / "cc3m" / "images")
    make_manifest(root / "cc3m" / "manifest.tsv", pairs.images, pairs.captions)
    _make_coco(root / "coco2017", pairs)
    for name in ("all-MiniLM-L6-v2", "all-mpnet-base-v2", "intfloat/e5-large-v2"):
        shutil.copytree(bert_folder, root / name)
    shutil.copy(word_vectors, root / "average_word_embeddings_glove.6B.300d")
    for split in ("train", "test"):
        for colour in COLOURS[:4]:
            for shape in SHAPES:
                for place in ("cifar10", "datasets/dtd"):
                    path = root / place / split / colour / f"{shape}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    draw_picture(path, colour, shape, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield root


def _make_coco(root: Path, pairs: Pairs) -> None:
    shutil.copytree(pairs.root / "images", root / "val2017")
    (root / "annotations").mkdir()
    images = [{"id": number, "file_name": Path(image).name} for number, image in enumerate(pairs.images)]
    captions = [{"image_id": number, "id": number, "caption": text} for number, text in enumerate(pairs.captions)]
    text = json.dumps({"images": images, "annotations": captions})
    (root / "annotations" / "captions_val2017.json").write_text(text)


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_documented_commands__run(world: Path, page: str) -> None:
    for command in commands_of(page):
        if any(word in command for word in _NOT_RUN):
            continue
        _run(shlex.split(_fitted(command, world)))


def _fitted(command: str, world: Path) -> str:
    command = re.sub(r"^(python cli\.py|protorkd) ", "", command).replace("/data/Datasets", "datasets")
    command = re.sub(r"--report-to \S+", "", command)
    command = re.sub(r"(num-prototypes[= ])\d+", r"\g<1>4", command)
    command = re.sub(r"(validation-fraction )\S+", r"\g<1>0.2", command)
    name, _, rest = command.partition(" ")
    stage = rest.split(" ")[0] if name == "why" else name
    smaller = _SMALLER.get(stage, "")
    if stage == "distill" and "proto" in command and "num-prototypes" not in command and "--prototypes" not in command:
        smaller += " --loss-option proto-rkd.num-prototypes=4"
    return f"{_named(command, world)} {smaller}"


def _named(command: str, world: Path) -> str:
    """Put artifacts that are there in the place of those that a page makes up."""

    def artifact(found: "re.Match[str]") -> str:
        before = (found[1] or "").strip()
        stage = _STAGE_OF.get(before, "evaluate")
        made = sorted((world / "store" / stage).glob("[!.]*"), key=lambda path: path.stat().st_mtime_ns)
        return f"{found[1] or ''}{made[-1 if found[2].startswith('5') else -2].name}"

    return _PLACEHOLDER.sub(artifact, command)


def _run(words: list[str]) -> None:
    from cli import cli

    result = CliRunner().invoke(cli, words, catch_exceptions=False, input="n\n")
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"

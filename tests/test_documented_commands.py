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
    "--warmup-steps 0 --workers 0 --device cpu --precision fp32 --smoothing-landmarks 16 --no-profile "
    "--no-checkpoint-gradients",
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
    made: dict[str, list[str]] = {}  # by stage, in the order of the page
    for command in commands_of(page):
        if not any(word in command for word in _NOT_RUN):
            output = _run(shlex.split(_named(_smaller(command), made)))
            for stage, name in re.findall(
                r"^([a-z-]+) (?:created|unchanged): \S*/([0-9a-f]{32})$", output, re.MULTILINE
            ):
                made[stage] = [*(other for other in made.get(stage, []) if other != name), name]


def _smaller(command: str) -> str:
    command = re.sub(r"^(python cli\.py|protorkd) ", "", command).replace("/data/Datasets", "datasets")
    command = re.sub(r"--report-to \S+", "", command)
    command = re.sub(r"(num-prototypes[= ])\d+", r"\g<1>4", command)
    command = re.sub(r"(validation-fraction )\S+", r"\g<1>0.2", command)
    name, _, rest = command.partition(" ")
    stage = rest.split(" ")[0] if name == "why" else name
    smaller = _SMALLER.get(stage, "")
    if stage == "distill" and "proto" in command and "num-prototypes" not in command and "--prototypes" not in command:
        smaller += " --loss-option proto-rkd.num-prototypes=4"
    return f"{command} {smaller}"


def _named(command: str, made: dict[str, list[str]]) -> str:
    """Put artifacts that the page has made in the place of those that it makes up; the first of two is the newer."""

    def artifact(found: "re.Match[str]") -> str:
        names = made[_STAGE_OF.get((found[1] or "").strip(), "evaluate")]
        is_second = "5c1d0f6a2b7e" in command and found[2] != "5c1d0f6a2b7e"
        return f"{found[1] or ''}{names[-2 if is_second else -1]}"

    return _PLACEHOLDER.sub(artifact, command)


def _run(words: list[str]) -> str:
    from cli import cli

    result = CliRunner().invoke(cli, words, catch_exceptions=False, input="n\n")
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
    return result.output

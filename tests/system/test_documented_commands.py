"""The commands of README and docs/ are run, in the order of their pages, in a small world and with small numbers."""

import io
import json
import re
import shlex
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from workbench import COLOURS, FEATURES, SHAPES, Pairs, draw_image, make_manifest, make_pairs, with_prompts

from tests.system.test_readme import PAGES, blocks, commands_of

# What cannot be run here, and why; such commands are still parsed by test_readme.
_NOT_RUN = {
    "torchrun": "several processes: test_torchrun has them",
    "gather-cc": "asks addresses of the internet",
    "s3://": "asks a bucket",
    "--backbone": "weights that somebody publishes",
    "--features auto": "weights that somebody publishes",
    "--vectors": "what another tool has computed",
    "--caption-vectors": "what another tool has computed",
    "--init-from": "a file that somebody publishes",
    "--serve": "ends by Ctrl-C",
    "--push-to-hub": "sends to the hub",
    "--lora": "for transformers, which the small student is not",
}
_ENCODE = "encode-teacher --manifest train.tsv --teacher all-MiniLM-L6-v2"
# A placeholder stands for an artifact of the stage that the words before it ask for.
_PLACEHOLDER = re.compile(r"(--[a-z-]+ )?(5c1d0f6a2b7e|9ab3c04d81f2)")
_STAGE_OF = {
    "--packed": "pack",
    "--prototypes": "prototypes",
    "--student": "distill",
    "--embeddings": "encode-teacher",
    "--in": "encode-teacher",
    "--features": "encode-images",
    "--from-student": "distill",
}
_SMALLER = {
    "distill": "--student squeezenet1_1 --pretrained '' --pooling native --image-size 32 --batch-size 8 --epochs 1 "
    "--episode-size 0 --warmup-steps 0 --workers 0 --device cpu --precision fp32 --smoothing-landmarks 16 --no-profile "
    "--no-checkpoint-gradients",
    "distill --features": "--batch-size 8 --epochs 1 --warmup-steps 0 --device cpu --precision fp32",
    "evaluate": "--workers 0 --device cpu --num-resamples 100 --knn-k 3",
    "prototypes": "--num-prototypes 4",
    "report": "--num-neighbours 3 --device cpu",
    "report --features": "--num-neighbours 3 --device cpu",
    "encode-teacher": "--device cpu --teacher-precision fp32",
    "pack": "--workers 0",
    "embed": "--workers 0 --device cpu",
    "search": "--device cpu",
}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, word_vectors: Path, bert_folder: Path, backbone_weights: Path
) -> Iterator[Path]:
    """Yield a folder in which what the pages name is there: manifests, images, sets and teachers."""
    root = tmp_path_factory.mktemp("world")
    pairs = make_pairs(root, 24, 40)
    for name in ("train.tsv", "test.tsv"):
        make_manifest(root / name, pairs.images, pairs.captions)
    shutil.copytree(root / "images", root / "cc3m" / "images")
    make_manifest(root / "cc3m" / "manifest.tsv", pairs.images, pairs.captions)
    _make_coco(root / "coco2017", pairs)
    shutil.copytree(root / "images", root / "photos")
    (root / "queries.txt").write_text("red circle\nblue square\n")
    for name in ("holiday.jpg", "photo.jpg"):
        shutil.copy(root / pairs.images[0], root / name)
    _make_tars(root / "shards", pairs)
    (root / "training.toml").write_text(_smaller_toml(blocks("docs/configuration.md", "toml")[0]))
    (root / "experiment.toml").write_text(_smaller_toml(blocks("README.md", "toml")[0]))
    for name in ("all-MiniLM-L6-v2", "all-mpnet-base-v2", "intfloat/e5-large-v2"):
        shutil.copytree(bert_folder, root / name)
    gemma = root / "google" / "embeddinggemma-300m"
    with_prompts(bert_folder, gemma, {"query": "one ", "document": "two "})
    shutil.copy(word_vectors, root / "average_word_embeddings_glove.6B.300d")
    for split in ("train", "test"):
        for colour in COLOURS[:4]:
            for shape in SHAPES:
                for place in ("cifar10", "datasets/dtd"):
                    path = root / place / split / colour / f"{shape}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    draw_image(path, colour, shape, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for command in (_ENCODE, "distill"):
            _run(shlex.split(_smaller(command)))
        _run([*FEATURES, "--init-from", str(backbone_weights), "--manifest", "train.tsv"])
        yield root


def _make_coco(root: Path, pairs: Pairs) -> None:
    shutil.copytree(pairs.root / "images", root / "val2017")
    (root / "annotations").mkdir()
    images = [{"id": number, "file_name": Path(image).name} for number, image in enumerate(pairs.images)]
    captions = [{"image_id": number, "id": number, "caption": text} for number, text in enumerate(pairs.captions)]
    text = json.dumps({"images": images, "annotations": captions})
    (root / "annotations" / "captions_val2017.json").write_text(text)


def _make_tars(root: Path, pairs: Pairs) -> None:
    root.mkdir()
    for number in range(2):
        with tarfile.open(root / f"{number:05}.tar", "w") as tar:
            for image, caption in list(zip(pairs.images, pairs.captions, strict=True))[number::2]:
                for suffix, data in ((".jpg", (pairs.root / image).read_bytes()), (".txt", caption.encode())):
                    member = tarfile.TarInfo(Path(image).stem + suffix)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def _smaller_toml(text: str) -> str:
    """Return a page's file of options, with the options of small numbers put beside those that it names."""
    stages: dict[str, str] = {}
    for stage, options in _SMALLER.items():
        given = re.findall(r"--(?!no-)(\S+) (\S+)", options)
        stages[stage] = "".join(
            f"{name} = {value if value.isdigit() else json.dumps(value.strip(chr(39)))}\n" for name, value in given
        )
    text = re.sub(r"^(image-size|epochs) = .*\n", "", text, flags=re.MULTILINE)
    for stage, options in stages.items():
        text = text.replace(f"[{stage}]\n", f"[{stage}]\n{options}")
    return text.replace(
        "[distill]\n", '[distill]\nloss-option = ["proto-rkd.num-prototypes=4"]\n' if "proto" in text else "[distill]\n"
    )


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_documented_commands__run(world: Path, page: str) -> None:
    made: dict[str, list[str]] = {}  # by stage, in the order of the page
    for command in commands_of(page):
        if not any(word in command for word in _NOT_RUN):
            if "--features" in command:  # of the images of these pairs, which other pages may have left for others
                _run(shlex.split(_smaller(_ENCODE)))
            output = _run(shlex.split(_named(_smaller(command), made)))
            for stage, name in re.findall(
                r"^([a-z-]+) (?:created|unchanged): \S*/([0-9a-f]{32})$", output, re.MULTILINE
            ):
                made[stage] = [*(other for other in made.get(stage, []) if other != name), name]


def _smaller(command: str) -> str:
    command = re.sub(r"^(python cli\.py|protorkd) ", "", command)
    for large, small in (("/data/Datasets", "datasets"), ("/data/", ""), ("00099", "00001"), ("@epoch_3", "@epoch_1")):
        command = command.replace(large, small)
    command = re.sub(r"--report-to \S+", "", command)
    command = re.sub(r"(num-prototypes[= ])\d+", r"\g<1>4", command)
    command = re.sub(r"(validation-fraction )\S+", r"\g<1>0.2", command)
    name, _, rest = command.partition(" ")
    stage = rest.split(" ")[0] if name == "why" else name
    smaller = _SMALLER.get(f"{stage} --features" if "--features" in command else stage, "")
    is_of_prototypes = "--loss proto" in command or "--config" in command
    if stage == "distill" and is_of_prototypes and "num-prototypes" not in command and "--prototypes" not in command:
        smaller += " --loss-option proto-rkd.num-prototypes=4"
    if "--from-student" in command:
        smaller += " --unfreeze all"  # no blocks are known of the small student
    return f"{command} {smaller}"


def _named(command: str, made: dict[str, list[str]]) -> str:
    """Put artifacts that the page has made in the place of those that it makes up; the first of two is the newer."""

    def artifact(match: "re.Match[str]") -> str:
        stage = _STAGE_OF.get((match[1] or "").strip(), "evaluate")
        names = made.get(stage) or [path.name for path in Path("store", stage).glob("[!.]*")]
        is_second = "5c1d0f6a2b7e" in command and match[2] != "5c1d0f6a2b7e"
        return f"{match[1] or ''}{names[-2 if is_second else -1]}"

    return _PLACEHOLDER.sub(artifact, command)


def _run(words: list[str]) -> str:
    from cli import cli

    result = CliRunner().invoke(cli, words, catch_exceptions=False, input="n\n")
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
    return result.output

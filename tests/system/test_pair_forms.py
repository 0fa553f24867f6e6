"""From pairs in any form to a student: the same weights as from a TSV and its files, and nothing is done twice."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_forms import Imaged, read_imaged, write_form, write_tar
from workbench import DISTILL, Cli, Pairs

from data_schemas.evaluation_report import read_report
from data_schemas.pair_index import read_rejected
from data_schemas.pair_sources.columns import Columns
from data_schemas.pair_sources.kinds import find_source
from pipeline.store.file_digests import FileDigests
from stages.components.images.augmentation import AUGMENTATIONS, Augment
from stages.components.images.image_set import ImageSet
from stages.components.images.opening import open_images
from stages.components.images.transforms import TrainCrop
from stages.distill.data.batch_order import BatchRequests
from stages.distill.data.example_images import ExampleImages, load_batches

EACH_KIND = ("coco", "img2dataset_files", "json_lines", "parquet_shards", "saved_dataset", "webdataset_shards")


@pytest.fixture
def imaged(encoded_session: tuple[Path, Pairs]) -> list[Imaged]:
    pairs = encoded_session[1]
    return read_imaged(pairs.root, pairs.images, pairs.captions)


def encode(run_cli: Cli, manifest: Path, word_vectors: Path, *words: object) -> dict[str, Any]:
    return run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors, *words)


def bytes_of(outcome: dict[str, Any], name: str) -> bytes:
    return (Path(outcome["path"]) / name).read_bytes()


def exact_copies(evaluated: dict[str, Any]) -> int:
    [overlap] = read_report(Path(evaluated["path"]))["overlap"]
    return int(overlap["num_exact"])


@pytest.mark.parametrize("form", EACH_KIND)
def test_student__is_the_one_of_the_files(
    form: str, imaged: list[Imaged], trained: dict[str, Any], run_cli: Cli, word_vectors: Path, tmp_path: Path
) -> None:
    manifest = write_form(form, tmp_path / "form", imaged)
    encoded = encode(run_cli, manifest, word_vectors)
    assert (encoded["status"], encoded["counts"]["pairs"]) == ("created", 24)
    assert encoded["counts"]["reused_captions"] == encoded["counts"]["captions"]
    student = run_cli(*DISTILL)
    assert student["fingerprint"] != trained["fingerprint"]
    assert bytes_of(student, "student.safetensors") == bytes_of(trained, "student.safetensors")
    assert encode(run_cli, manifest, word_vectors)["status"] == "unchanged"
    assert run_cli(*DISTILL)["status"] == "unchanged"


@pytest.mark.parametrize("form", ["parquet_shards", "saved_dataset", "webdataset"])
def test_containers__are_packed_and_evaluated_as_their_files_are(
    form: str, imaged: list[Imaged], trained: dict[str, Any], run_cli: Cli, tmp_path: Path
) -> None:
    files = write_form("tsv", tmp_path / "files", imaged)
    container = write_form(form, tmp_path / "form", imaged)
    packs = [run_cli("pack", "--manifest", manifest) for manifest in (files, container)]
    assert bytes_of(packs[0], "shards/000000.bin") == bytes_of(packs[1], "shards/000000.bin")
    assert run_cli("pack", "--manifest", container)["status"] == "unchanged"
    words = ("--workers", 0, "--num-resamples", 100, "--task", "retrieval", "--retrieval")
    measured = [run_cli("evaluate", *words, f"set={manifest}") for manifest in (files, container)]
    assert measured[0]["metrics"] == measured[1]["metrics"]
    assert [exact_copies(outcome) for outcome in measured] == [24, 24]
    assert run_cli("evaluate", *words, f"set={container}")["status"] == "unchanged"
    packed = run_cli("evaluate", *words, f"set={container}", "--packed", packs[1]["fingerprint"])
    assert packed["metrics"] == measured[0]["metrics"]


def test_student__of_a_container_knows_its_training_images(
    imaged: list[Imaged], run_cli: Cli, word_vectors: Path, tmp_path: Path
) -> None:
    container = write_form("webdataset", tmp_path / "form", imaged)
    files = write_form("tsv", tmp_path / "files", imaged)
    encode(run_cli, container, word_vectors)
    run_cli(*DISTILL)
    words = ("--workers", 0, "--num-resamples", 100, "--task", "retrieval", "--retrieval", f"set={files}")
    assert exact_copies(run_cli("evaluate", *words)) == 24


@pytest.mark.parametrize("form", ["parquet_bytes", "saved_dataset", "webdataset_shards"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches__are_those_of_the_files(form: str, workers: int, imaged: list[Imaged], tmp_path: Path) -> None:
    batches = []
    for name in ("tsv", form):
        manifest = write_form(name, tmp_path / name, imaged)
        source = find_source(manifest)
        paths = source.read(Columns()).table["image"].to_pylist()
        batches.append(batches_of(open_images(source.root, paths, FileDigests(None)), workers=workers))
    assert len(batches[0]) == 6
    assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))


def batches_of(images: ImageSet, *, workers: int) -> list[torch.Tensor]:
    crop, augment = TrainCrop(image_size=20, min_scale=0.5), Augment(AUGMENTATIONS["light"])
    dataset = ExampleImages(images, np.arange(24), crop, augment, seed=0)
    requests = BatchRequests(np.arange(24), batch_size=8, epochs=2, seed=0)
    return [batch.images for batch in load_batches(dataset, requests, workers=workers, pin_memory=False)]


def test_damaged_records__are_counted_rejections(
    imaged: list[Imaged], run_cli: Cli, word_vectors: Path, tmp_path: Path
) -> None:
    imaged[3] = Imaged(imaged[3].key, b"no image", imaged[3].caption)
    encode(run_cli, write_form("webdataset", tmp_path / "form", imaged), word_vectors)
    outcome = run_cli(*DISTILL, "--max-bad-fraction", 0.1)
    [rejected] = read_rejected(Path(outcome["path"]))
    assert (rejected.row, rejected.value) == (3, "00000.tar/000000003.jpg")
    assert rejected.reason.startswith("not a readable image")


def test_moved_containers__are_found_by_the_image_root(
    imaged: list[Imaged], run_cli: Cli, word_vectors: Path, tmp_path: Path
) -> None:
    container = write_form("webdataset", tmp_path / "form", imaged)
    encode(run_cli, container, word_vectors)
    first = run_cli(*DISTILL)
    (tmp_path / "form").rename(tmp_path / "moved")
    assert "images may be missing" in run_cli.fails(*DISTILL)
    assert run_cli(*DISTILL, "--image-root", tmp_path / "moved")["fingerprint"] == first["fingerprint"]


def test_evaluate__finds_the_images_of_packed_captions_of_coco(
    imaged: list[Imaged], trained: dict[str, Any], run_cli: Cli, tmp_path: Path
) -> None:
    import pyarrow as pa

    path = write_form("coco", tmp_path / "form", imaged)
    with pa.CompressedOutputStream(f"{path}.gz", "gzip") as out:
        out.write(path.read_bytes())
    words = ("--workers", 0, "--num-resamples", 100, "--task", "retrieval", "--no-overlap", "--retrieval")
    plain, packed = (run_cli("evaluate", *words, f"set={name}") for name in (path, f"{path}.gz"))
    assert plain["metrics"] == packed["metrics"]


def test_distill__needs_no_manifest_any_more(
    imaged: list[Imaged], trained: dict[str, Any], run_cli: Cli, word_vectors: Path, tmp_path: Path
) -> None:
    manifest = write_form("tsv", tmp_path / "form", imaged)
    odd = manifest.rename(manifest.with_name("pairs[1].tsv"))
    encode(run_cli, odd, word_vectors)
    odd.unlink()
    student = run_cli(*DISTILL)
    assert bytes_of(student, "student.safetensors") == bytes_of(trained, "student.safetensors")


@pytest.mark.parametrize("form", ["parquet_bytes", "webdataset"])
def test_dry_run__says_of_containers_what_it_says_of_their_files(
    form: str, imaged: list[Imaged], run_cli: Cli, word_vectors: Path, tmp_path: Path
) -> None:
    stages = [("encode-teacher", "--teacher", word_vectors), ("pack", "--short-side", 0)]
    said = []
    for manifest in (write_form("tsv", tmp_path / "files", imaged), write_form(form, tmp_path / "form", imaged)):
        estimates = [run_cli(*words, "--manifest", manifest, "--dry-run")["estimate"] for words in stages]
        said.append(([each["counts"] for each in estimates], estimates[1]["bytes"]))
    assert said[0] == said[1]


def test_why__names_the_manifest_when_a_shard_changes(
    imaged: list[Imaged], run_cli: Cli, word_vectors: Path, tmp_path: Path
) -> None:
    manifest = write_form("webdataset_shards", tmp_path / "form", imaged)
    encode(run_cli, manifest, word_vectors)
    words = ("why", "encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    assert "unchanged" in run_cli.run(*words).output
    write_tar(tmp_path / "form" / "shards" / "00001.tar", [("a.jpg", b"x"), ("a.txt", b"red")])
    assert f"manifest ({manifest})" in run_cli.run(*words).output


@pytest.mark.parametrize("form", ["webdataset_shards", "img2dataset_parquet", "json_lines_zst"])
def test_verify__makes_damaged_pairs_anew_from_any_form(
    form: str, imaged: list[Imaged], run_cli: Cli, word_vectors: Path, tmp_path: Path
) -> None:
    outcome = encode(run_cli, write_form(form, tmp_path / "form", imaged), word_vectors)
    pairs = Path(outcome["path"]) / "pairs.parquet"
    before = pairs.read_bytes()
    pairs.write_bytes(before[:-9])
    run_cli.run("verify", "--repair")
    assert pairs.read_bytes() == before


@pytest.mark.parametrize("form", ["webdataset", "saved_dataset", "parquet_shards"])
def test_container__put_in_the_place_of_another_is_opened_anew(form: str, imaged: list[Imaged], tmp_path: Path) -> None:
    for pairs in (imaged, imaged[::-1]):
        source = find_source(write_form(form, tmp_path / "form", pairs))
        images = open_images(source.root, source.read(Columns()).table["image"].to_pylist(), FileDigests(None))
        hashes = [hashlib.sha256(pair.data).hexdigest() for pair in pairs]
        assert images.digests(range(24), FileDigests(None)) == hashes


def test_store__remembers_what_lies_in_tars(imaged: list[Imaged], tmp_path: Path) -> None:
    tar = write_form("webdataset", tmp_path / "form", imaged)
    os.utime(tar, (1, 1))
    digests = FileDigests(tmp_path / "memo.sqlite")
    settled = digests.members(tar)
    assert digests.members(tar).equals(settled)
    assert settled.num_rows == 72


@pytest.mark.real_data
@pytest.mark.skipif("PROTORKD_TEST_DATA" not in os.environ, reason="PROTORKD_TEST_DATA is not set")
def test_photographs__in_a_tar_give_the_embeddings_of_their_tsv(
    run_cli: Cli, word_vectors: Path, tmp_path: Path
) -> None:
    real_data = Path(os.environ["PROTORKD_TEST_DATA"])
    lines = (real_data / "coco22k" / "test.tsv").read_text().splitlines()[:201]
    (tmp_path / "files.tsv").write_text("\n".join(lines))
    manifest = find_source(tmp_path / "files.tsv").read(Columns()).table
    pairs = read_imaged(real_data / "coco22k", manifest["image"].to_pylist(), manifest["caption"].to_pylist())
    forms = {form: write_form(form, tmp_path / form, pairs) for form in ("tsv", "webdataset", "saved_dataset")}
    encoded = {form: encode(run_cli, path, word_vectors, "--force") for form, path in forms.items()}
    packs = [run_cli("pack", "--manifest", path) for path in forms.values()]
    for outcome in encoded.values():
        assert bytes_of(outcome, "captions.parquet") == bytes_of(encoded["tsv"], "captions.parquet")
        assert embeddings_of(outcome) == embeddings_of(encoded["tsv"])
    assert len({bytes_of(pack, "shards/000000.bin") for pack in packs}) == 1


def embeddings_of(outcome: dict[str, Any]) -> dict[str, bytes]:
    folder = Path(outcome["path"]) / "embeddings.zarr"
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

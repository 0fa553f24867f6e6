"""Training from a pack: the same as from files where it kept their bytes, and refused where it was altered."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from workbench import DISTILL, Cli, Pairs, make_manifest

from data_schemas.pair_index import read_rejected
from pipeline.store.store import Store
from stages.components.images.augmentation import AUGMENTATIONS, Augment
from stages.components.images.image_set import ImageSet
from stages.components.images.packed_image_set import PackedImageSet, take_packed
from stages.components.images.transforms import TrainCrop
from stages.distill.data.batch_order import BatchRequests
from stages.distill.data.example_images import ExampleImages, load_batches


def pack_of(pairs: Pairs, run_cli: Cli, *words: object) -> str:
    fingerprint: str = run_cli("pack", "--manifest", pairs.manifest, *words)["fingerprint"]
    return fingerprint


def packed_set(pairs: Pairs, run_cli: Cli, *words: object) -> PackedImageSet:
    import pyarrow as pa

    artifact = Store(run_cli.store).resolve(pack_of(pairs, run_cli, *words), stage="pack", flag="--packed")
    images = take_packed(artifact, pa.array(pairs.images, pa.large_string()), manifest="").value
    assert isinstance(images, PackedImageSet)
    return images


def batches_of(images: ImageSet, *, workers: int = 0) -> list[torch.Tensor]:
    crop, augment = TrainCrop(image_size=20, min_scale=0.5), Augment(AUGMENTATIONS["light"])
    dataset = ExampleImages(images, np.arange(24), crop, augment, seed=0)
    requests = BatchRequests(np.arange(24), batch_size=8, epochs=2, seed=0)
    return [batch.images for batch in load_batches(dataset, requests, workers=workers, pin_memory=False)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches__are_those_of_the_files_where_the_pack_kept_their_bytes(
    workers: int, encoded: Pairs, run_cli: Cli
) -> None:
    files = batches_of(ImageSet(root=encoded.root, paths=encoded.images))
    packed = batches_of(packed_set(encoded, run_cli, "--shard-images", 5), workers=workers)
    assert len(files) == len(packed) == 6
    assert all(torch.equal(one, other) for one, other in zip(files, packed, strict=True))


def test_batches__of_raw_images_that_were_not_shrunk_are_those_of_the_files(encoded: Pairs, run_cli: Cli) -> None:
    files = batches_of(ImageSet(root=encoded.root, paths=encoded.images))
    packed = batches_of(packed_set(encoded, run_cli, "--format", "raw"))
    assert all(torch.equal(one, other) for one, other in zip(files, packed, strict=True))


@pytest.mark.parametrize(
    ("image_size", "min_scale", "least"),
    [(20, 0.1, 0.85), (20, 0.8, 0.85), (20, 0, 1), (8, 0.5, 0.2)],  # of 8 pixels most are resized before
)
def test_images__that_the_device_resizes_take_about_what_is_expected(
    image_size: int, min_scale: float, least: float, encoded: Pairs, run_cli: Cli
) -> None:
    images = packed_set(encoded, run_cli, "--format", "raw")
    crop = TrainCrop(image_size=image_size, min_scale=min_scale)
    dataset = ExampleImages(images, np.arange(24), crop, None, seed=0, resized=False)
    requests = BatchRequests(np.arange(24), batch_size=8, epochs=20, seed=0)
    batches = list(load_batches(dataset, requests, workers=0, pin_memory=False))
    found = sum(batch.images.numel() for batch in batches) / (20 * 24)
    assert least * dataset.image_bytes <= found <= 1.15 * dataset.image_bytes
    assert max(requests.usual_sizes) == 8


def test_packed_set__is_small_when_it_is_handed_to_a_process(encoded: Pairs, run_cli: Cli) -> None:
    images = packed_set(encoded, run_cli)
    pixels = images.open(5).pixels()
    assert list(images.paths) == list(encoded.images)
    handed = pickle.dumps(images)
    assert len(handed) < 2000
    assert b"images/005.jpg" not in handed
    again = pickle.loads(handed)
    assert np.array_equal(again.open(5).pixels(), pixels)
    assert (again.paths[5], again.paths.index("images/005.jpg"), len(again.paths)) == ("images/005.jpg", 5, 24)
    assert len(pickle.dumps(packed_set(encoded, run_cli, "--format", "raw"))) < 2000


def test_packed_set__can_be_chosen_from(encoded: Pairs, run_cli: Cli) -> None:
    images = packed_set(encoded, run_cli)
    chosen = images.select([7, 2])
    assert list(chosen.paths) == [encoded.images[7], encoded.images[2]]
    assert np.array_equal(chosen.open(1).pixels(), images.open(2).pixels())


def test_distill__from_a_pack_ends_with_the_bytes_that_it_ends_with_from_files(
    encoded: Pairs, run_cli: Cli, tmp_path: Path
) -> None:
    trained = run_cli(*DISTILL)
    originals = Pairs(
        shutil.copytree(encoded.root, tmp_path / "originals"),
        tmp_path / "originals" / "pairs.tsv",
        encoded.images,
        encoded.captions,
    )
    pack = pack_of(originals, run_cli, "--shard-images", 7)
    shutil.rmtree(originals.root)
    outcome = run_cli(*DISTILL, "--packed", pack)
    assert outcome["fingerprint"] != trained["fingerprint"]
    assert outcome["digest"] == trained["digest"]
    record = json.loads((Path(outcome["path"]) / "artifact.json").read_text())
    packed = json.loads((run_cli.store / "pack" / pack / "artifact.json").read_text())
    assert record["inputs"]["images"]["digest"] == packed["digest"]
    assert run_cli(*DISTILL, "--packed", pack)["status"] == "unchanged"


def test_distill__counts_what_the_pack_rejected(encoded: Pairs, run_cli: Cli, tmp_path: Path) -> None:
    root = shutil.copytree(encoded.root, tmp_path / "own")
    (root / encoded.images[3]).write_bytes(b"no image")
    (root / encoded.images[5]).unlink()
    own = Pairs(root, root / "pairs.tsv", encoded.images, encoded.captions)
    pack = pack_of(own, run_cli, "--max-bad-fraction", 0.1)
    message = run_cli.fails(*DISTILL, "--packed", pack)
    assert "At most 0 images may be missing (--max-bad-fraction); got 2 of 24" in message
    assert f"{encoded.images[3]}: not a readable image" in message
    outcome = run_cli(*DISTILL, "--packed", pack, "--max-bad-fraction", 0.1)
    rejections = read_rejected(Path(outcome["path"]))
    assert [entry.value for entry in rejections] == [encoded.images[3], encoded.images[5]]
    assert [entry.reason[:20] for entry in rejections] == ["not a readable image", "missing file"]
    assert (outcome["counts"]["rejected_images"], outcome["counts"]["training_examples"]) == (2, 22)
    plain = run_cli(*DISTILL, "--image-root", root, "--max-bad-fraction", 0.1)
    assert {**plain["counts"], "rejected_reasons": 0} == {**outcome["counts"], "rejected_reasons": 0}


def test_distill__names_the_first_image_that_the_pack_lacks(encoded: Pairs, run_cli: Cli, tmp_path: Path) -> None:
    part = make_manifest(encoded.root / "part.tsv", encoded.images[:20], encoded.captions[:20])
    pack = run_cli("pack", "--manifest", part)["fingerprint"]
    part.unlink()
    message = run_cli.fails(*DISTILL, "--packed", pack)
    assert "--packed must hold every image of the pairs" in message
    assert f"which lacks 4 of 24, first {encoded.images[20]}." in message
    assert f"Run: python cli.py pack --manifest {encoded.manifest}" in message


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("format_", ["jpeg", "raw"])
def test_distill__refuses_to_train_on_an_altered_shard(
    format_: str, workers: int, encoded: Pairs, run_cli: Cli
) -> None:
    pack = pack_of(encoded, run_cli, "--format", format_, "--shard-images", 5)
    shard = run_cli.store / "pack" / pack / "shards" / "000002.bin"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    message = run_cli.fails(*DISTILL, "--packed", pack, "--workers", workers, "--max-bad-fraction", 1)
    [line] = [line for line in message.splitlines() if line.startswith("Error: ")]
    assert line.startswith(f"Error: {shard} must be as it was written; the record of images/")
    assert line.endswith("has other bytes. Run pack again with the same options and --force.")
    assert "worker process" not in message
    shard.write_bytes(data[:-1])
    assert f"{shard} must be as it was written; it has" in run_cli.fails(*DISTILL, "--packed", pack)


def test_distill__takes_a_pack_or_a_folder(encoded: Pairs, run_cli: Cli) -> None:
    pack = pack_of(encoded, run_cli)
    message = run_cli.fails(*DISTILL, "--packed", pack, "--image-root", encoded.root)
    assert f"Only one of --packed and --image-root must be given; got {encoded.root} as well" in message
    assert "--packed must name an artifact of pack" in run_cli.fails(*DISTILL, "--packed", "0" * 12)

"""The pack stage from the command line: each image once, shrunk or as it was, resumed where it broke."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image
from workbench import Cli, make_manifest, make_pairs

import stages.pack.run
from data_schemas.images.packed_images import PackedImages
from data_schemas.images.student_checkpoint import Preprocessing
from data_schemas.pair_index import read_rejected
from stages.components.images.decoding import open_image
from stages.components.images.lazy_image import JpegImage, open_lazily
from stages.components.images.packed_image_set import PackedImageSet
from stages.components.images.transforms import EvalTransform

Pixels = NDArray[np.uint8]


def images_of(outcome: dict[str, Any]) -> PackedImageSet:
    pack = PackedImages(Path(outcome["path"]))
    return PackedImageSet.of(pack, np.arange(len(pack), dtype=np.int32), pack.paths.to_pylist())


def pixels_of(outcome: dict[str, Any]) -> dict[str, Pixels]:
    """Pixels of all images that are not rejected, by path."""
    images = images_of(outcome)
    return {path: images.open(n).pixels() for n, path in enumerate(images.paths) if n not in images.missing}


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(0, 20, (height, width, 3))
    return Image.fromarray((np.stack([x, y, x + y], axis=2) * 200 // (height + width) + noise).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of every kind, large and small, below a folder; the names say what they are."""
    root = tmp_path / "mixed"
    (root / "deeper").mkdir(parents=True)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    photo(90, 120).save(root / "large.jpg", quality=80)
    photo(50, 40).save(root / "small.jpg", quality=80)
    photo(50, 40).save(root / "small-turned.jpg", quality=80, exif=turned)
    photo(90, 120).save(root / "large-turned.jpg", quality=80, exif=turned)
    photo(50, 60).convert("CMYK").save(root / "cmyk.jpg")
    photo(50, 60).convert("L").save(root / "deeper" / "grey.jpg")
    photo(50, 60).save(root / "deeper" / "IMAGE.PNG")
    Image.new("RGBA", (50, 50), (255, 0, 0, 0)).save(root / "see-through.png")
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.jpg").write_text("no image")
    return root


@pytest.fixture
def pack(run_cli: Cli) -> Callable[..., dict[str, Any]]:
    return lambda *words: run_cli("pack", *words)


def test_pack__of_jpeg_keeps_the_bytes_of_small_upright_files_and_shrinks_the_others(pack: Any, folder: Path) -> None:
    outcome = pack("--images", folder, "--short-side", 60)
    assert outcome["counts"]["images"] == 8
    images = images_of(outcome)
    assert images.paths == sorted(images.paths)
    assert {"deeper/IMAGE.PNG", "deeper/grey.jpg", "large.jpg"} < set(images.paths)
    sizes = {path: images.open(number).size for number, path in enumerate(images.paths)}
    assert (sizes["large.jpg"], sizes["large-turned.jpg"], sizes["small-turned.jpg"]) == ((60, 80), (80, 60), (40, 50))
    digests = dict(zip(images.paths, images.digests(range(8), None), strict=True))  # type: ignore[arg-type]
    kept = {p for p in images.paths if digests[p] == hashlib.sha256((folder / p).read_bytes()).hexdigest()}
    assert kept == {"small.jpg", "deeper/grey.jpg"}
    pixels = pixels_of(outcome)
    assert (pixels["see-through.png"] == 255).all()
    for path in images.paths:
        image = open_image(folder / path)
        height, width = sizes[path]
        expected = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int64)
        assert np.abs(pixels[path] - expected).mean() < (0.01 if path in kept else 8), path


def test_pack__of_raw_holds_the_pixels_that_evaluation_resizes_to(pack: Any, folder: Path) -> None:
    outcome = pack("--images", folder, "--short-side", 40, "--format", "raw")
    images = images_of(outcome)
    transform = EvalTransform(Preprocessing(image_size=40))
    for number, path in enumerate(images.paths):
        assert np.array_equal(transform(images.open(number)), transform(open_lazily(folder / path)))
    whole = pack("--images", folder, "--short-side", 0, "--format", "raw")
    for path, pixels in pixels_of(whole).items():
        assert np.array_equal(pixels, np.asarray(open_image(folder / path)))
        assert not pixels.flags.owndata  # a view of the map
    assert whole["counts"]["bytes"] == sum(pixels.size for pixels in pixels_of(whole).values())


def test_pack__never_enlarges(pack: Any, folder: Path) -> None:
    for path, pixels in pixels_of(pack("--images", folder, "--short-side", 1000)).items():
        image = open_image(folder / path)
        assert pixels.shape == (image.height, image.width, 3)


def test_pack__honours_the_quality(pack: Any, folder: Path) -> None:
    words = ("--images", folder, "--short-side", 60)
    low, high = (pack(*words, "--quality", quality)["counts"]["bytes"] for quality in (30, 95))
    assert low < high
    assert "--quality must lie between 1 and 100; got 101" in Cli(folder).fails("pack", *words, "--quality", 101)


def test_pack__of_a_manifest_packs_each_image_once_under_the_path_as_it_is_written(pack: Any, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", 3, 40)
    absolute = str(pairs.root / pairs.images[2])
    images = [f"./{pairs.images[0]}", pairs.images[1], absolute, pairs.images[1], f"./{pairs.images[0]}"]
    manifest = make_manifest(pairs.root / "twice.tsv", images, ["a", "b", "c", "d", "e"])
    outcome = pack("--manifest", manifest)
    assert images_of(outcome).paths == images[:3]
    assert outcome["counts"] == {
        "images": 3,
        "rejected_images": 0,
        "rejected_reasons": {},
        "resumed_images": 0,
        "bytes": sum((pairs.root / path).stat().st_size for path in pairs.images),
    }
    moved = shutil.copytree(pairs.root, tmp_path / "moved")
    again = pack(
        "--manifest",
        make_manifest(tmp_path / "other.tsv", images, list("vwxyz")),
        "--image-root",
        moved,
        "--allow-outside",
    )
    assert (again["status"], again["digest"]) == ("unchanged", outcome["digest"])  # the captions are not asked for


def test_pack__reads_manifests_in_every_format(pack: Any, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", 2, 40)
    (pairs.root / "pairs.csv").write_text("words,picture\na,images/000.jpg\nb,images/001.jpg\n")
    words = ("--separator", "comma", "--image-key", "picture", "--caption-key", "words")
    assert images_of(pack("--manifest", pairs.root / "pairs.csv", *words)).paths == list(pairs.images)


def test_pack__counts_and_names_what_is_no_image(pack: Any, run_cli: Cli, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", 6, 40)
    (pairs.root / pairs.images[1]).write_bytes(b"no image")
    (pairs.root / pairs.images[3]).unlink()
    whole = (pairs.root / pairs.images[4]).read_bytes()
    (pairs.root / pairs.images[4]).write_bytes(whole[: len(whole) // 2])
    words = ("--manifest", pairs.manifest, "--shard-images", 2)
    message = run_cli.fails("pack", *words)
    assert "Images must be read but for a share of 0.01 (--max-bad-fraction); got 1 of 6 that cannot" in message
    assert f"{pairs.root / pairs.images[1]}: not a readable image" in message
    outcome = pack(*words, "--max-bad-fraction", 0.5)
    rejections = read_rejected(Path(outcome["path"]))
    assert [(entry.row, entry.value) for entry in rejections] == [(n, pairs.images[n]) for n in (1, 3, 4)]
    assert [entry.reason.partition(":")[0] for entry in rejections] == [
        "not a readable image (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM)",
        "missing file",
        "truncated or damaged",
    ]
    assert (outcome["counts"]["images"], outcome["counts"]["rejected_images"]) == (3, 3)
    assert images_of(outcome).missing == {entry.row: entry.reason for entry in rejections}


def test_pack__must_have_an_image(run_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    message = run_cli.fails("pack", "--images", tmp_path, "--max-bad-fraction", 1)
    assert "Images must be read (--max-bad-fraction); got 1 of 1 that cannot" in message


def test_pack__takes_a_manifest_or_a_folder(run_cli: Cli, folder: Path, tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path / "pairs.tsv", ["a.jpg"], ["a"])
    assert "One of --manifest and --images must be given; got neither" in run_cli.fails("pack")
    both = ("pack", "--manifest", manifest, "--images", folder)
    assert "One of --manifest and --images must be given; got both" in run_cli.fails(*both)
    assert f"{folder} must be a table" in run_cli.fails("pack", "--manifest", folder)
    assert f"--images must name a folder; got {manifest}" in run_cli.fails("pack", "--images", manifest)
    assert "--image-root must go with --manifest" in run_cli.fails("pack", "--images", folder, "--image-root", folder)
    (tmp_path / "empty").mkdir()
    assert "--images must hold images; got none" in run_cli.fails("pack", "--images", tmp_path / "empty")


def test_pack__changes_nothing_when_asked_again(pack: Any, folder: Path, tmp_path: Path) -> None:
    first = pack("--images", folder)
    again = pack("--images", folder, "--workers", 3)
    assert (first["status"], again["status"]) == ("created", "unchanged")
    moved = pack("--images", folder.rename(tmp_path / "moved"))
    assert (moved["status"], moved["digest"]) == ("unchanged", first["digest"])
    record = json.loads((Path(moved["path"]) / "artifact.json").read_text())
    assert record["inputs"]["pictures"]["location"] == str(tmp_path / "moved")


@pytest.mark.parametrize("change", ["pixels", "a name", "short side", "format", "quality"])
def test_pack__is_made_anew_for_other_images_names_or_parameters(change: str, pack: Any, folder: Path) -> None:
    first = pack("--images", folder)
    words: tuple[object, ...] = ()
    if change == "pixels":
        photo(90, 120, seed=1).save(folder / "large.jpg")
    elif change == "a name":
        (folder / "large.jpg").rename(folder / "larger.jpg")
    else:
        words = {"short side": ("--short-side", 30), "format": ("--format", "raw"), "quality": ("--quality", 50)}[
            change
        ]
    assert pack("--images", folder, *words)["fingerprint"] != first["fingerprint"]


def test_pack__refuses_an_image_that_changes_while_it_runs(
    run_cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stages.pack.run.RecordMaker

    def then_change(*arguments: Any, **options: Any) -> Any:
        photo(90, 120, seed=1).save(folder / "large.jpg")
        return real(*arguments, **options)

    monkeypatch.setattr(stages.pack.run, "RecordMaker", then_change)
    message = run_cli.fails("pack", "--images", folder)
    assert f"{folder / 'large.jpg'} must be as it was when its bytes were hashed; it has changed." in message


def test_pack__by_path_trusts_that_images_stay(pack: Any, folder: Path) -> None:
    words = ("--images", folder, "--image-identity", "path")
    first = pack(*words)
    photo(90, 120, seed=1).save(folder / "large.jpg")
    assert pack(*words)["status"] == "unchanged"
    assert pack("--images", folder)["fingerprint"] != first["fingerprint"]


@pytest.mark.parametrize("words", [("--workers", 1), ("--workers", 4)], ids=["1 thread", "4 threads"])
@pytest.mark.parametrize("format_", ["jpeg", "raw"])
def test_pack__has_the_same_bytes_whoever_reads(format_: str, words: Any, pack: Any, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", 24, 40)
    common = ("--manifest", pairs.manifest, "--short-side", 32, "--format", format_, "--shard-images", 7)
    here = pack(*common, *words)
    there = pack(*common, "--workers", 2, "--store", tmp_path / "other")
    assert here["digest"] == there["digest"]
    assert len(list(Path(here["path"]).glob("shards/*.bin"))) == 4


@pytest.mark.parametrize("broken", range(4))
@pytest.mark.parametrize("moment", ["before the shard", "after the shard"])
def test_pack__redoes_only_missing_shards_after_an_interruption(
    moment: str, broken: int, pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    pairs = make_pairs(tmp_path / "pairs", 8, 40)
    words = ("--manifest", pairs.manifest, "--shard-images", 2)
    undisturbed = pack(*words, "--store", tmp_path / "undisturbed")
    real, written = stages.pack.run.write_shard, []

    def breaks(root: Path, number: int, *args: Any) -> None:
        if number == broken and moment == "before the shard":
            raise RuntimeError("power cut")
        real(root, number, *args)
        written.append(number)
        if number == broken:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(stages.pack.run, "write_shard", breaks)
        with pytest.raises(RuntimeError, match="power cut"):
            pack(*words)
    assert not [path for path in (store / "pack").iterdir() if not path.name.startswith(".")]
    resumed = pack(*words)
    assert resumed["digest"] == undisturbed["digest"]
    assert resumed["counts"]["resumed_images"] == 2 * broken


@pytest.mark.parametrize("part", ["shards/000000.bin", "index/000000.parquet"])
def test_pack__redoes_a_shard_that_was_altered_after_an_interruption(
    part: str, pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    pairs = make_pairs(tmp_path / "pairs", 6, 40)
    words = ("--manifest", pairs.manifest, "--shard-images", 2)
    undisturbed = pack(*words, "--store", tmp_path / "undisturbed")
    real = stages.pack.run.write_shard

    def breaks(root: Path, number: int, *args: Any) -> None:
        if number == 2:
            raise RuntimeError("power cut")
        real(root, number, *args)

    with monkeypatch.context() as patch:
        patch.setattr(stages.pack.run, "write_shard", breaks)
        with pytest.raises(RuntimeError, match="power cut"):
            pack(*words)
    [altered] = store.glob(f"pack/.draft-*/{part}")
    altered.write_bytes(b"\0" * altered.stat().st_size)
    resumed = pack(*words)
    assert resumed["counts"]["resumed_images"] == 2
    assert resumed["digest"] == undisturbed["digest"]


def test_pack__mends_an_artifact_that_has_lost_a_shard(pack: Any, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", 6, 40)
    words = ("--manifest", pairs.manifest, "--shard-images", 2)
    first = pack(*words)
    (Path(first["path"]) / "shards" / "000001.bin").unlink()
    again = pack(*words)
    assert (again["status"], again["digest"]) == ("created", first["digest"])
    assert again["counts"]["resumed_images"] == 4


def test_pack__rejects_what_jpeg_cannot_hold(run_cli: Cli, pack: Any, tmp_path: Path) -> None:
    Image.new("RGB", (66_000, 2)).save(tmp_path / "long.png")
    photo(40, 40).save(tmp_path / "short.png")
    assert "a side of more than 65500 pixels" in run_cli.fails("pack", "--images", tmp_path)
    assert pack("--images", tmp_path, "--format", "raw")["counts"]["images"] == 2


def test_pack__keeps_a_damaged_jpeg_that_can_be_read(pack: Any, tmp_path: Path) -> None:
    file = io.BytesIO()
    photo(40, 40).save(file, "JPEG")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(file.getvalue()[:-2] + b"stray\xff\xd9")
    images = images_of(pack("--images", tmp_path / "pictures"))
    assert isinstance(images.open(0), JpegImage)
    expected = np.asarray(open_image(tmp_path / "pictures" / "a.jpg"))
    assert np.array_equal(images.open(0).pixels(), expected)


@pytest.mark.parametrize("words", [("--manifest", "pairs.tsv"), ("--images", ".")], ids=["manifest", "folder"])
def test_pack__is_repaired_from_its_images(
    words: tuple[str, str], pack: Any, run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs(tmp_path / "pairs", 6, 40)
    monkeypatch.chdir(pairs.root)
    (pairs.root / "artifact.json").write_text("images may lie in an artifact, such as that of draw-scenes")
    outcome = pack(*words, "--shard-images", 2)
    shard = Path(outcome["path"]) / "shards" / "000001.bin"
    whole = shard.read_bytes()
    shard.write_bytes(b"\0" * len(whole))
    assert run_cli.run("verify", "--repair").exit_code == 0
    assert shard.read_bytes() == whole

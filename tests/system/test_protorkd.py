"""The Python functions: the same stages, names, checks and results as the commands."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from workbench import DISTILL, Cli, Pairs

import protorkd
from data_schemas.errors import ProtoRKDError
from pipeline.python_api import stage_function
from stages import STAGES
from tests.system.test_imports import ROOT, SLOW_TO_IMPORT, TABLES

pytestmark = pytest.mark.usefixtures("quiet_log")

OPTIONS = {
    "image_size": 32, "batch_size": 8, "warmup_steps": 0, "workers": 0, "device": "cpu", "precision": "fp32",
    "student": "squeezenet1_1", "epochs": 2, "lr": 1e-3,
}  # fmt: skip


def test_protorkd__is_imported_without_what_takes_long() -> None:
    code = "import sys, protorkd; help(protorkd.distill); print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.splitlines()[-1].split()) & (SLOW_TO_IMPORT | TABLES)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_protorkd__has_a_function_for_every_stage(stage: Any) -> None:
    function = getattr(protorkd, stage.name.replace("-", "_"))
    assert function.__name__ in protorkd.__all__
    parameters = inspect.signature(function).parameters
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters.values())
    fields = {**stage.inputs.__dataclass_fields__, **stage.params.__dataclass_fields__}
    fields |= stage.runtime.__dataclass_fields__
    common = {"store", "force", "quiet", "config", *(["join"] if stage.joinable else [])}
    assert common | set(fields) == set(parameters)
    for name in fields:
        assert f"    {name}: " in function.__doc__


def test_signature__tells_defaults_and_what_has_none() -> None:
    parameters = inspect.signature(protorkd.encode_teacher).parameters
    assert [name for name, each in parameters.items() if each.default is inspect.Parameter.empty] == ["manifest"]
    assert parameters["teacher"].default is None
    assert parameters["shard_rows"].default == 8192
    assert parameters["limit"].annotation is int
    assert inspect.signature(protorkd.distill).return_annotation is protorkd.StageResult


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, r"distill\(\) must name an option of distill; got 'epoch'\. Did you mean 'epochs'\?"),
        ({"epochs": "3"}, r"epochs in distill\(\) must be a whole number; got '3'"),
        ({"epochs": 0}, r"epochs in distill\(\) must be above 0; got 0"),
        ({"precision": "fp8"}, r"precision in distill\(\) must be one of auto, fp32"),
        ({"compile": 1}, r"compile in distill\(\) must be true or false; got 1"),
        ({"loss": [3]}, r"loss in distill\(\) must be text; got 3"),
    ],
)
def test_function__refuses_what_the_command_refuses(options: dict[str, Any], message: str, store: Path) -> None:
    with pytest.raises(ProtoRKDError, match=message):
        protorkd.distill(store=store, **options)
    assert not store.exists()


def test_function__says_what_it_cannot_do_without(store: Path) -> None:
    with pytest.raises(ProtoRKDError, match=r"encode_teacher\(\) must give manifest"):
        protorkd.encode_teacher(teacher="all-MiniLM-L6-v2", store=store)
    with pytest.raises(ProtoRKDError, match="One of --teacher and --vectors must be given; got neither"):
        protorkd.encode_teacher(manifest="train.tsv", store=store)


def test_functions__find_what_the_commands_made_and_the_reverse(
    trained: dict[str, Any], store: Path, encoded_session: tuple[Path, Pairs], word_vectors: Path, run_cli: Cli
) -> None:
    manifest = encoded_session[1].manifest
    encoded = protorkd.encode_teacher(manifest=str(manifest), teacher=word_vectors, store=str(store))
    student = protorkd.distill(embeddings=encoded, store=store, loss="infonce", **OPTIONS)
    assert (encoded.status, student.status) == ("unchanged", "unchanged")
    assert (student.fingerprint, student.digest) == (trained["fingerprint"], trained["digest"])
    place = store / "distill" / trained["fingerprint"]
    assert (student.stage, student.path, student.counts) == ("distill", place, trained["counts"])
    asked = {"retrieval": manifest, "num_resamples": 100, "workers": 0, "overlap": False}
    evaluated = protorkd.evaluate(student=student, store=store, quiet=True, **asked)
    assert evaluated.metrics["pairs/mean_recall"] >= 0
    words = ("evaluate", "--retrieval", manifest, "--num-resamples", 100, "--workers", 0, "--no-overlap")
    assert run_cli(*words)["digest"] == evaluated.digest


def test_function__takes_a_file_of_options(tmp_path: Path, trained: dict[str, Any], store: Path) -> None:
    lines = [f"{name} = {value!r}" for name, value in OPTIONS.items()]
    config = tmp_path / "options.toml"
    config.write_text("\n".join([f"store = {str(store)!r}", "[distill]", *lines, "seed = 9"]))
    assert protorkd.distill(config=config, seed=0).fingerprint == trained["fingerprint"]


def test_function__takes_its_store_as_the_command_does(
    trained: dict[str, Any], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.parent)
    assert protorkd.distill(**OPTIONS).path == Path("store/distill") / trained["fingerprint"]
    monkeypatch.chdir(store)
    monkeypatch.setenv("PROTORKD_STORE", str(store))
    assert protorkd.distill(**OPTIONS).status == "unchanged"


def test_function__takes_numbers_of_numpy(trained: dict[str, Any], store: Path) -> None:
    options = OPTIONS | {"lr": np.float64(1e-3), "epochs": np.int64(2), "seed": np.uint8(0)}
    assert protorkd.distill(store=store, **options).fingerprint == trained["fingerprint"]


def test_function__is_made_of_any_stage(toy_source: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "pipeline"))
    from toy_stage import TOY

    toy = stage_function(TOY, stages=(TOY,))
    assert toy(source=toy_source, num_parts=2, store=tmp_path / "store").counts == {"made": 2}


@pytest.fixture
def toy_source(tmp_path: Path) -> Path:
    (tmp_path / "source.txt").write_text("words")
    return tmp_path / "source.txt"


def test_load_student__embeds_files_images_and_arrays_alike(
    trained: dict[str, Any], store: Path, encoded_session: tuple[Path, Pairs]
) -> None:
    pairs = encoded_session[1]
    paths = [pairs.root / name for name in pairs.images[:5]]
    student = protorkd.load_student(store=store, device="cpu")
    assert (student.config.backbone, student.config.embedding_dim) == ("squeezenet1_1", 16)
    embeddings = student.encode(paths, batch_size=2)
    assert (embeddings.shape, embeddings.dtype) == ((5, 16), np.float32)
    images = [PIL.Image.open(path) for path in paths]
    np.testing.assert_allclose(student.encode(images), embeddings, rtol=1e-5, atol=1e-6)
    arrays = np.stack([np.asarray(image.convert("RGB")) for image in images])
    np.testing.assert_allclose(student.encode(arrays, batch_size=5), embeddings, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(student.encode(str(paths[0])), embeddings[:1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(student.encode(arrays[0]), embeddings[:1], rtol=1e-5, atol=1e-6)
    assert student.encode([]).shape == (0, 16)
    units = student.encode((path for path in paths), normalize=True)
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, rtol=1e-5)
    with pytest.raises(ProtoRKDError, match=r"images must be images; number 1 \(absent.jpg\) is not: missing file"):
        student.encode([paths[0], "absent.jpg"])
    with pytest.raises(ProtoRKDError, match=r"number 0 \(ndarray\) is not: an array must be .* got \(2, 2\) float64"):
        student.encode(np.zeros((2, 2)))


def test_load_student__turns_images_upright_as_files_are(tmp_path: Path, trained: dict[str, Any], store: Path) -> None:
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    student = protorkd.load_student(trained["fingerprint"][:8], store=store, device="cpu")
    of_file, of_image = student.encode([tmp_path / "turned.png", PIL.Image.open(tmp_path / "turned.png")])
    np.testing.assert_allclose(of_image, of_file, rtol=1e-5, atol=1e-6)


def test_load_student__opens_a_checkpoint(trained: dict[str, Any], store: Path) -> None:
    array = np.full((40, 40, 3), 128, np.uint8)
    first, second, last = (
        protorkd.load_student(store / "distill" / trained["fingerprint"], epoch=epoch, device="cpu").encode(array)
        for epoch in (1, 2, None)
    )
    np.testing.assert_array_equal(second, last)
    assert np.abs(first - last).max() > 1e-4
    with pytest.raises(ProtoRKDError, match=r"epoch must be one after which weights were kept; .* has no .*epoch_3"):
        protorkd.load_student(trained["fingerprint"], store=store, epoch=3)


def test_load_student__refuses_altered_weights(trained: dict[str, Any], store: Path) -> None:
    weights = store / "distill" / trained["fingerprint"] / "student.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ProtoRKDError, match="must be as it was written"):
        protorkd.load_student(store=store)


def test_load_embeddings__gives_captions_embeddings_and_pairs(encoded: Pairs, store: Path) -> None:
    cached = protorkd.load_embeddings(store=store)
    captions = cached.captions.to_pylist()
    assert captions == list(dict.fromkeys(encoded.captions))
    assert (cached.embeddings.shape, cached.embeddings[:].dtype) == ((len(captions), 16), np.float16)
    rows = cached.pairs["caption_row"].to_pylist()
    assert tuple(captions[row] for row in rows) == encoded.captions
    with pytest.raises(ProtoRKDError, match="reference must name an artifact of encode-teacher"):
        protorkd.load_embeddings("abc", store=store)


@pytest.mark.parametrize("name", ["captions.parquet", "pairs.parquet"])
def test_load_embeddings__refuses_captions_and_pairs_with_other_bytes(encoded: Pairs, store: Path, name: str) -> None:
    [path] = store.glob(f"encode-teacher/[!.]*/{name}")
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(ProtoRKDError, match=rf"{name} must be as it was written"):
        protorkd.load_embeddings(store=store)


SCRIPT = """
import sys
import protorkd
print("begun")
options = dict(image_size=32, batch_size=8, epochs=1, warmup_steps=0, workers=1, student="squeezenet1_1")
print(protorkd.distill(store=sys.argv[1], quiet=True, **options).status)
print(__file__)
"""


@pytest.mark.slow
def test_script__needs_no_guard_though_processes_read_its_images(encoded: Pairs, store: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(store)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.stdout.splitlines() == ["begun", "created", str(script)], done.stderr
    assert done.stderr == ""


def test_distill_options__are_those_of_the_shared_training() -> None:
    words = dict(zip(DISTILL[1::2], DISTILL[2::2], strict=True))
    assert {name[2:].replace("-", "_"): value for name, value in words.items()} == OPTIONS


def test_join__is_refused_where_the_work_cannot_be_shared() -> None:
    with pytest.raises(ProtoRKDError, match=r"distill\(\) must be called without join, for its work cannot be shared"):
        protorkd.distill(join=True)

"""A teacher is the bytes that make its embeddings, wherever they lie and whatever they are called."""

import shutil
from pathlib import Path

import pytest

from data_schemas.errors import ProtoRKDError
from pipeline.store.file_digests import FileDigests
from stages.components.teacher.identity import find_teacher, identify_teacher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the shape of a sentence-transformers model; identity never loads it."""
    root = tmp_path / "teacher"
    files = {
        "modules.json": "[]",
        "config.json": '{"hidden_size": 4}',
        "model.safetensors": "weights",
        "vocab.txt": "a\nb\n",
        "1_Pooling/config.json": '{"pooling_mode": "mean"}',
        "2_Normalize/config.json": "{}",
    }
    for name, text in files.items():
        _write(root / name, text)
    return root


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _identity(path: Path) -> str:
    return identify_teacher(str(path), file_digests=FileDigests(None)).digest


def test_identity__is_the_same_for_the_same_bytes_elsewhere(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "renamed")
    assert _identity(copy) == _identity(folder)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "vocab.txt", "modules.json", "1_Pooling/config.json"]
)
def test_identity__changes_with_each_file_that_makes_embeddings(folder: Path, name: str) -> None:
    before = _identity(folder)
    (folder / name).write_text((folder / name).read_text() + " ")
    assert _identity(folder) != before


def test_identity__changes_when_a_file_is_added_or_goes(folder: Path) -> None:
    before = _identity(folder)
    _write(folder / "3_Dense/config.json", "{}")
    added = _identity(folder)
    (folder / "2_Normalize/config.json").unlink()
    assert len({before, added, _identity(folder)}) == 3


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "LICENSE",
        ".gitattributes",
        ".cache/huggingface/model.lock",
        "onnx/model.onnx",
        "openvino/openvino_model.xml",
        "tf_model.h5",
        "pytorch_model.bin",  # beside model.safetensors it is not loaded
    ],
)
def test_identity__leaves_out_what_is_never_loaded(folder: Path, name: str) -> None:
    before = _identity(folder)
    _write(folder / name, "anything")
    assert _identity(folder) == before


def test_identity__counts_pickled_weights_where_there_are_no_others(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    _write(folder / "pytorch_model.bin", "weights")
    before = _identity(folder)
    _write(folder / "pytorch_model.bin", "other weights")
    assert _identity(folder) != before


def test_identity__names_each_file_so_that_a_change_can_be_named(folder: Path) -> None:
    found = identify_teacher(str(folder), file_digests=FileDigests(None))
    assert {"model.safetensors", "1_Pooling/config.json"} <= set(found.parts)
    assert found.location == str(folder.resolve())
    assert found.value.kind == "sentence-transformers"


def test_identity__of_word_vectors_is_their_bytes_alone(word_vectors: Path, tmp_path: Path) -> None:
    copy = shutil.copy(word_vectors, tmp_path / "renamed.vec")
    assert _identity(copy) == _identity(word_vectors)
    copy.write_text(copy.read_text().replace("red ", "crimson ", 1))
    assert _identity(copy) != _identity(word_vectors)
    assert find_teacher(str(copy)).kind == "word-vectors"


@pytest.mark.parametrize("name", ["./missing", "/missing/folder", "missing.txt", "a/b/c", "../missing.gz"])
def test_find_teacher__says_at_once_that_a_path_is_not_there(name: str) -> None:
    with pytest.raises(ProtoRKDError, match="--teacher must name an existing folder or file; got"):
        find_teacher(name)


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model"])
def test_find_teacher__says_that_a_model_is_neither_here_nor_to_be_fetched(name: str) -> None:
    with pytest.raises(ProtoRKDError, match=rf"got {name}.*cannot be fetched \(HF_HUB_OFFLINE is set\)"):
        find_teacher(name)


@pytest.mark.parametrize("name", ["two words", "a?b", "-dash-", ""])
def test_find_teacher__refuses_what_no_model_is_called(name: str) -> None:
    with pytest.raises(ProtoRKDError, match="--teacher must name"):
        find_teacher(name)


def test_find_teacher__refuses_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=r"--teacher must name a folder with a .* model \(modules.json\)"):
        find_teacher(str(tmp_path))


@pytest.fixture
def hub_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A cache of the hub with two revisions of one model, whose weights differ; the newer one is ``main``."""
    from huggingface_hub import constants

    cache = tmp_path / "hub" / "models--someone--teacher"
    commits = {"old": "0" * 39 + "1", "new": "0" * 39 + "2"}
    for revision, commit in commits.items():
        snapshot = shutil.copytree(folder, cache / "snapshots" / commit)
        _write(snapshot / "model.safetensors", f"weights of {revision}")
    _write(cache / "refs" / "main", commits["new"])
    _write(cache / "refs" / "v1", commits["old"])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return commits


def test_identity__of_a_model_of_the_hub_is_found_again_by_its_commit(hub_cache: dict[str, str]) -> None:
    newest = identify_teacher("someone/teacher", file_digests=FileDigests(None))
    assert newest.location == f"someone/teacher@{hub_cache['new']}"
    assert identify_teacher(newest.location, file_digests=FileDigests(None)).digest == newest.digest


@pytest.mark.parametrize("by", ["commit", "tag"])
def test_identity__of_a_revision_is_that_of_its_bytes(hub_cache: dict[str, str], by: str) -> None:
    name = f"someone/teacher@{hub_cache['old'] if by == 'commit' else 'v1'}"
    old = identify_teacher(name, file_digests=FileDigests(None))
    assert old.location == f"someone/teacher@{hub_cache['old']}"
    assert old.digest != identify_teacher("someone/teacher", file_digests=FileDigests(None)).digest


@pytest.mark.usefixtures("hub_cache")
def test_find_teacher__says_which_revision_is_not_to_be_had() -> None:
    with pytest.raises(ProtoRKDError, match="someone/teacher at v9 cannot be fetched"):
        find_teacher("someone/teacher@v9")


def test_identity__with_code_that_may_run_is_another(folder: Path) -> None:
    trusting = identify_teacher(str(folder), file_digests=FileDigests(None), trust_code=True)
    assert trusting.digest != _identity(folder)
    assert trusting.value.trusts_code
    _write(folder / "modeling.py", "answer = 42\n")
    assert identify_teacher(str(folder), file_digests=FileDigests(None), trust_code=True).digest != trusting.digest


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"auto_map": {"AutoModel": "someone/else--modeling.Model"}}'),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": [null, "someone/else--fast.Tokenizer"]}}'),
        ("modules.json", '[{"idx": 0, "type": "someone/else--modeling.Model"}]'),
        ("router_config.json", '{"types": {"text_0": "someone/else--modeling.Model"}}'),
    ],
)
def test_find_teacher__refuses_code_of_another_repository(folder: Path, name: str, text: str) -> None:
    _write(folder / name, text)
    with pytest.raises(ProtoRKDError, match=f"{name} must name code of its own folder; got 'someone/else--"):
        find_teacher(str(folder), trust_code=True)

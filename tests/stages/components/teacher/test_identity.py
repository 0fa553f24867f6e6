"""A teacher is the bytes that make its embeddings, wherever they lie and whatever they are called."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.store.file_digests import FileDigests
from stages.components.teacher.identity import find_teacher, former_digest, identify_teacher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of the shape of a sentence-transformers model; identity never loads it."""
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
    """Return a cache of the hub with two revisions of one model, whose weights differ; the newer one is ``main``."""
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


def _stand_in_for_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for a hub that has a whole model; return the revisions that it is asked for."""
    import huggingface_hub

    own, asked = huggingface_hub.snapshot_download, []

    def snapshot_download(**options: Any) -> str:
        if options.get("local_files_only"):
            return str(own(**options))
        asked.append(options["revision"])
        snapshots = next(Path(huggingface_hub.constants.HF_HUB_CACHE).glob("*/snapshots"))
        shutil.copytree(folder, snapshots / options["revision"], dirs_exist_ok=True)
        return str(snapshots / options["revision"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def _list_files(snapshot: Path, names: list[str]) -> None:
    """Put down what the hub has of a commit, as huggingface_hub 2 does."""
    files = {name: {"size": 1, "blob_id": "0"} for name in names}
    listing = json.dumps({"format_version": 1, "files": files})
    _write(snapshot.parents[1] / "trees" / f"{snapshot.name}.json", listing)


def _snapshot(tmp_path: Path, commit: str) -> Path:
    return tmp_path / "hub" / "models--someone--teacher" / "snapshots" / commit


@pytest.mark.parametrize("lost", ["modules.json", "1_Pooling", "model.safetensors"])
def test_find_teacher__completes_a_model_of_which_the_cache_has_half(
    lost: str, folder: Path, hub_cache: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [{"path": "1_Pooling", "type": "a.Pooling"}, {"path": "9_Normalize", "type": "a.Normalize"}]
    _write(folder / "modules.json", json.dumps(modules))
    snapshot = _snapshot(tmp_path, hub_cache["new"])
    shutil.copytree(folder, snapshot, dirs_exist_ok=True)
    shutil.move(snapshot / lost, tmp_path / "lost")
    asked = _stand_in_for_the_hub(folder, monkeypatch)
    assert (find_teacher("someone/teacher").path / lost).exists()
    assert find_teacher("someone/teacher").path == snapshot
    assert asked == [hub_cache["new"]]  # once, and for the commit that it has half of


@pytest.mark.parametrize("has_weights", [True, False])
def test_find_teacher__goes_by_the_cached_commit_where_the_cache_knows_what_it_lacks(
    has_weights: bool, folder: Path, hub_cache: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(folder / "modules.json", "[]")
    snapshot = _snapshot(tmp_path, hub_cache["new"])
    shutil.copytree(folder, snapshot, dirs_exist_ok=True)
    _list_files(snapshot, ["model.safetensors", "modules.json", "onnx/model.onnx", "README.md"])
    if not has_weights:
        (snapshot / "model.safetensors").unlink()
    asked = _stand_in_for_the_hub(folder, monkeypatch)
    assert find_teacher("someone/teacher").path == snapshot
    assert asked == ([] if has_weights else [hub_cache["new"]])  # never a newer one


@pytest.mark.parametrize("is_listed", [False, True])
def test_find_teacher__refuses_half_a_model_where_the_hub_cannot_be_asked(
    is_listed: bool, hub_cache: dict[str, str], tmp_path: Path
) -> None:
    snapshot = _snapshot(tmp_path, hub_cache["new"])
    (snapshot / "modules.json").unlink()
    if is_listed:
        _list_files(snapshot, ["modules.json"])
    with pytest.raises(ProtoRKDError, match=r"--teacher must be a whole model; .* \(HF_HUB_OFFLINE is set\)"):
        find_teacher("someone/teacher")


def test_find_teacher__takes_a_model_of_which_the_hub_is_known_to_list_no_modules(
    hub_cache: dict[str, str], tmp_path: Path
) -> None:
    (_snapshot(tmp_path, hub_cache["new"]) / "modules.json").unlink()
    _write(tmp_path / "hub" / "models--someone--teacher" / ".no_exist" / hub_cache["new"] / "modules.json", "")
    assert find_teacher("someone/teacher").location.endswith(hub_cache["new"])


def test_identity__says_that_no_pooling_is_named(folder: Path) -> None:
    assert "pooling" not in identify_teacher(str(folder), file_digests=FileDigests(None)).parts
    (folder / "modules.json").unlink()
    found = identify_teacher(str(folder), file_digests=FileDigests(None))
    assert found.parts["pooling"] == "not named: the mean is taken"


@pytest.mark.parametrize(("change", "how"), [("half precision", "widened"), ("wrapped names", "stripped")])
def test_identity__is_another_where_weights_are_changed_on_loading(change: str, how: str, folder: Path) -> None:
    wide = np.zeros(2, dtype=np.float32)
    tensors = {"a": wide.astype(np.float16)} if change == "half precision" else {"_orig_mod.a": wide}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    _write(folder / "config.json", '{"model_type": "bert"}')
    found = identify_teacher(str(folder), file_digests=FileDigests(None))
    assert found.parts[change] == how
    former = {"kind": found.value.kind, "files": {name: found.parts[name] for name in found.parts if name != change}}
    assert found.digest != hash_json(former) == former_digest(found)


@pytest.mark.parametrize(
    ("name", "is_wrapped"),
    [
        ("model.embeddings.word_embeddings.weight", True),
        ("model.bert.embeddings.word_embeddings.weight", True),
        ("model.encoder.block.0.layer.0.SelfAttention.q.weight", True),
        ("model.linear.weight", True),
        ("model.embed_tokens.weight", False),  # Llama, Mistral, Qwen
        ("model.layers.0.linear.weight", False),
        ("model.embeddings.tok_embeddings.weight", False),  # ModernBERT
        ("model.encoder.layers.0.fc1.weight", False),  # BART
        ("bert.embeddings.word_embeddings.weight", False),
    ],
)
def test_identity__is_another_where_lightning_wraps_a_network_that_is_not_called_so(
    name: str, is_wrapped: bool, folder: Path
) -> None:
    safetensors.numpy.save_file({name: np.zeros(2, dtype=np.float32)}, folder / "model.safetensors")
    assert ("wrapped names" in identify_teacher(str(folder), file_digests=FileDigests(None)).parts) == is_wrapped


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt", "1_Pooling/config.json"])
def test_find_teacher__knows_a_pointer_of_git_lfs(name: str, folder: Path) -> None:
    _write(folder / name, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ProtoRKDError, match=f"--teacher must lead to whole files; got .*{name}, .* git lfs pull"):
        find_teacher(str(folder))


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

import pytest
from store_contract import StoreContract

from data_schemas.errors import ProtoRKDError
from pipeline.store.store import Store


class TestStore(StoreContract):
    """A folder, which all open alike."""

    @pytest.fixture
    def open_store(self, tmp_path):
        return lambda name: Store(tmp_path / "store")

    def overwrite(self, store, artifact, path, data):
        (artifact.path / path).write_bytes(data)


def test_absolute__holds_in_every_folder(toy, tmp_path, monkeypatch):
    made = toy.run().artifact
    monkeypatch.chdir(tmp_path)
    store = Store(toy.store.root.relative_to(tmp_path)).absolute()
    monkeypatch.chdir("/")
    assert store.artifacts() == [made]


def test_require_whole__looks_at_sizes_or_at_bytes_of_the_files_named(toy):
    artifact = toy.run().artifact
    artifact.require_whole(read=True)
    part = artifact.path / "parts/1.txt"
    part.write_bytes(part.read_bytes()[::-1])
    artifact.require_whole()
    artifact.require_whole(("summary", "parts/0"), read=True)
    with pytest.raises(ProtoRKDError, match=r"parts/1\.txt must be as it was written; it has other.*and --force\."):
        artifact.require_whole(read=True)
    part.unlink()
    with pytest.raises(ProtoRKDError, match=r"it is missing\. Run toy again with the same options\."):
        artifact.require_whole(("parts",))

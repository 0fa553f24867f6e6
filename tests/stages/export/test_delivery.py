import base64
import json
import stat
from pathlib import Path

import pytest
from exports import Exported, Hub
from workbench import Cli

from data_schemas.errors import ProtoRKDError
from pipeline.store.store import Artifact, Store
from stages.export.delivery import copy_to, push
from stages.export.manifest import MANIFEST_NAME, changes


def artifact_of(exported: Exported) -> Artifact:
    [found] = Store(exported.store).artifacts("export")
    return found


def test_output__is_the_export_without_the_stores_own_records(exported: Exported, run_cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "given" / "model"
    asked = ("export", "--license", "Apache-2.0", "--output", out)
    assert run_cli(*asked)["status"] == "created"
    assert changes(out) == {}
    assert not (out / "artifact.json").exists()
    assert (out / "modules.json").is_file()
    assert stat.S_IMODE((out / "README.md").stat().st_mode) & 0o044
    before = (out / MANIFEST_NAME).stat().st_ino
    assert run_cli(*asked)["status"] == "unchanged"
    assert (out / MANIFEST_NAME).stat().st_ino == before
    run_cli("export", "--license", "mit", "--output", out)
    assert "license: mit" in (out / "README.md").read_text()
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_output__is_given_again_after_it_was_removed(exported: Exported, tmp_path: Path) -> None:
    artifact = artifact_of(exported)
    copy_to(tmp_path / "out", artifact)
    for path in sorted((tmp_path / "out").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    copy_to(tmp_path / "out", artifact)  # into an empty folder
    assert changes(tmp_path / "out") == {}


def test_output__leaves_other_folders_alone(exported: Exported, tmp_path: Path) -> None:
    artifact = artifact_of(exported)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(ProtoRKDError, match="holds something else"):
        copy_to(tmp_path / "mine", artifact)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "all of it"
    with pytest.raises(ProtoRKDError, match="must name a folder"):
        copy_to(tmp_path / "mine" / "thesis.tex", artifact)


@pytest.mark.parametrize("change", ["alter", "add", "break"])
def test_output__leaves_an_export_alone_that_somebody_changed(change: str, exported: Exported, tmp_path: Path) -> None:
    artifact, out = artifact_of(exported), tmp_path / "out"
    copy_to(out, artifact)
    name = {"alter": "README.md", "add": "notes.txt", "break": MANIFEST_NAME}[change]
    (out / name).write_text("mine")
    with pytest.raises(ProtoRKDError, match=f"as it was written; .*{name}"):
        copy_to(out, artifact)
    assert (out / name).read_text() == "mine"


def test_output__of_a_damaged_export_is_refused(exported: Exported, tmp_path: Path) -> None:
    artifact = artifact_of(exported)
    (exported.folder / "modeling_protorkd.py").write_bytes(
        b"#" * (exported.folder / "modeling_protorkd.py").stat().st_size
    )
    with pytest.raises(ProtoRKDError, match="must be as it was written"):
        copy_to(tmp_path / "out", artifact)
    assert not (tmp_path / "out").exists()


def test_output__that_cannot_be_finished_leaves_what_was_there(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, out = artifact_of(exported), tmp_path / "out"
    out.mkdir()
    real = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ProtoRKDError, match="No space left"):
        copy_to(out, artifact)
    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == ["out"]


def test_push__uploads_what_the_export_lists_and_no_record(exported: Exported, run_cli: Cli, hub: Hub) -> None:
    run_cli("export", "--format", "torch", "--push-to-hub", "someone/eyes", "--private", "--hub-revision", "draft")
    made = next(json.loads(body) for _, path, body in hub.requests if path == "/api/repos/create")
    assert (made["organization"], made["name"]) == ("someone", "eyes")
    assert "private" in (made.get("visibility"), made.get("private") and "private")
    assert any(path == "/api/models/someone/eyes/branch/draft" for _, path, _ in hub.requests)
    assert any(path.startswith("/api/models/someone/eyes/commit/draft") for _, path, _ in hub.requests)
    assert set(hub.files) == {"README.md", "export.json", "torch/student.pt", "torch/student.json"}
    card = base64.b64decode(hub.files["README.md"]).decode()
    assert card.startswith("---\n")
    place = str(exported.store.parent)
    assert all(place.encode() not in base64.b64decode(content) for content in hub.files.values())


def test_push__again_of_what_was_made_before_uploads_it(exported: Exported, hub: Hub) -> None:
    address = push(artifact_of(exported), "someone/eyes", private=False, revision=None)
    assert address.endswith("/someone/eyes/commit/0123")
    assert "modeling_protorkd.py" in hub.files
    assert {"artifact.json", "journal.jsonl"}.isdisjoint(hub.files)


def test_push__that_is_refused_says_so_without_the_token(
    exported: Exported, run_cli: Cli, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.refuses, hub.message = "/api/repos/create", "hf_secret may not write here"
    said = run_cli.fails("export", "--format", "torch", "--push-to-hub", "someone/eyes")
    assert "it answered 403" in said
    assert "may not write here" in said
    assert "hf_secret" not in said + caplog.text
    hub.refuses = "nothing"
    assert run_cli("export", "--format", "torch", "--push-to-hub", "someone/eyes")["status"] == "unchanged"
    assert "README.md" in hub.files


def test_push__refuses_what_names_no_repository(exported: Exported, hub: Hub) -> None:
    with pytest.raises(ProtoRKDError, match="must name OWNER/NAME; got a/b/c"):
        push(artifact_of(exported), "a/b/c", private=False, revision=None)
    assert not hub.requests


def test_push__without_a_network_says_so(exported: Exported) -> None:
    with pytest.raises(ProtoRKDError, match="OfflineModeIsEnabled"):
        push(artifact_of(exported), "someone/eyes", private=False, revision=None)

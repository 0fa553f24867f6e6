"""Image paths stay below their folder."""

import os
from pathlib import Path

import pytest
from workbench import DISTILL, Cli, Pairs, make_manifest

from data_schemas.errors import ProtoRKDError
from stages.components.inputs.path_checks import check_inside, is_own

OUTSIDE = ("../a.jpg", "a/../../b.jpg", "/etc/passwd", "a/../../root-of-another/b.jpg", "..", "/")


@pytest.mark.parametrize(
    "path", ["a.jpg", "a/b.jpg", "a/../b.jpg", "..a/b..jpg", "a..b/c.jpg", "{root}/a.jpg", "~/a.jpg"]
)
def test_check_inside__lets_through_what_stays_below(path: str, tmp_path: Path) -> None:
    check_inside(["x.jpg", path.format(root=tmp_path)], tmp_path)


@pytest.mark.parametrize("path", OUTSIDE)
def test_check_inside__refuses_what_leads_out(path: str, tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=r"Image paths must stay below .*--allow-outside") as found:
        check_inside(["x.jpg", path], tmp_path / "root")
    assert repr(path) in str(found.value)


def test_check_inside__is_not_taken_in_by_a_folder_whose_name_goes_on(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError):
        check_inside([f"{tmp_path}/root-of-another/a.jpg"], tmp_path / "root")


@pytest.mark.parametrize("path", ["/etc/a.jpg", "/a..b/c.jpg"])
def test_check_inside__lets_absolute_paths_through_where_the_manifest_is_the_users(path: str, tmp_path: Path) -> None:
    check_inside(["x.jpg", path], tmp_path, absolute=True)
    with pytest.raises(ProtoRKDError, match="Image paths must stay below"):
        check_inside(["x.jpg", path], tmp_path)


@pytest.mark.parametrize("path", ["../a.jpg", "/srv/../etc/a.jpg", "/..", "a/../../b.jpg"])
def test_check_inside__lets_no_path_climb_out(path: str, tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match="Image paths must stay below"):
        check_inside([path], tmp_path, absolute=True)


def test_is_own__is_a_file_that_is_here(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").touch()
    assert is_own(tmp_path / "pairs.tsv")
    assert not is_own(tmp_path / "gone.tsv")
    assert not is_own("s3://bucket/pairs.tsv")


@pytest.mark.parametrize("command", ["distill", "evaluate", "pack"])
def test_stages__open_no_file_outside_unless_told(
    command: str, trained: object, encoded_session: tuple[Path, Pairs], word_vectors: Path, run_cli: Cli, tmp_path: Path
) -> None:
    pairs = encoded_session[1]
    inner = tmp_path / "inner"
    inner.mkdir()
    images = [os.path.relpath(pairs.root / image, inner) for image in pairs.images]
    manifest = make_manifest(inner / "pairs.tsv", images, pairs.captions)
    encoded = run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    words = {
        "distill": (*DISTILL, "--embeddings", encoded["path"], "--epochs", 1),
        "evaluate": ("evaluate", "--device", "cpu", "--workers", 0, "--retrieval", manifest),
        "pack": ("pack", "--manifest", manifest),
    }[command]
    assert "Image paths must stay below" in run_cli.fails(*words)
    assert run_cli(*words, "--allow-outside")["status"] == "created"


@pytest.mark.parametrize("command", ["distill", "evaluate", "pack"])
def test_stages__open_what_the_users_own_manifest_names(
    command: str, trained: object, encoded_session: tuple[Path, Pairs], word_vectors: Path, run_cli: Cli, tmp_path: Path
) -> None:
    pairs = encoded_session[1]
    images = [str(pairs.root / image) for image in pairs.images]
    manifest = make_manifest(tmp_path / "pairs.tsv", images, pairs.captions)
    encoded = run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    words = {
        "distill": (*DISTILL, "--embeddings", encoded["path"], "--epochs", 1),
        "evaluate": ("evaluate", "--device", "cpu", "--workers", 0, "--retrieval", manifest),
        "pack": ("pack", "--manifest", manifest),
    }[command]
    assert run_cli(*words)["status"] == "created"

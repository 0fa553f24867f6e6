from pathlib import Path

import pytest

from data_schemas.errors import ProtoRKDError
from stages.evaluate.sets.image_folder import read_image_folder, read_splits, split_name


def fill_folder(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_image_folder__lists_classes_and_images_in_order(tmp_path: Path) -> None:
    root = fill_folder(tmp_path / "pets", "dog/b.PNG", "dog/a.jpg", "cat/z.webp", "cat/deep/er/y.jpeg", "readme.txt")
    found = read_image_folder(root)
    assert found.name == "pets"
    assert found.root == root
    assert found.classes == ("cat", "dog")
    assert found.images == ("cat/deep/er/y.jpeg", "cat/z.webp", "dog/a.jpg", "dog/b.PNG")
    assert found.labels == (0, 0, 1, 1)


def test_image_folder__passes_over_hidden_files_and_what_is_no_image(tmp_path: Path) -> None:
    files = ("dog/a.jpg", "dog/._a.jpg", "dog/.cache/b.jpg", "dog/notes.txt", ".git/c.jpg", "dog/folder.jpg/x.txt")
    found = read_image_folder(fill_folder(tmp_path / "pets", *files))
    assert found.classes == ("dog",)
    assert found.images == ("dog/a.jpg",)


@pytest.mark.parametrize("split", ["test", "val"])
def test_image_folder__uses_the_evaluation_split(tmp_path: Path, split: str) -> None:
    root = fill_folder(tmp_path / "cifar10", "train/dog/a.jpg", f"{split}/dog/b.jpg")
    found = read_image_folder(root)
    assert found.name == "cifar10"
    assert found.root == root / split
    assert found.images == ("dog/b.jpg",)


def test_image_folder__takes_a_class_called_test_for_a_class(tmp_path: Path) -> None:
    found = read_image_folder(fill_folder(tmp_path / "exams", "test/a.jpg", "essay/b.jpg"))
    assert found.classes == ("essay", "test")


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_image_folder__is_named_by_the_folder_above_a_split(tmp_path: Path, split: str) -> None:
    root = fill_folder(tmp_path / "cifar10", f"{split}/dog/a.jpg")
    assert read_image_folder(root / split).name == "cifar10"


def test_image_folder__is_named_where_the_path_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill_folder(tmp_path / "cifar10", "test/dog/a.jpg")
    monkeypatch.chdir(root)
    for folder in (".", "test", "test/.."):
        assert read_image_folder(Path(folder)).name == "cifar10"


def test_image_folder__takes_a_given_name(tmp_path: Path) -> None:
    assert read_image_folder(fill_folder(tmp_path / "x", "dog/a.jpg"), name="pets").name == "pets"


@pytest.mark.parametrize(
    ("argument", "name", "folder"),
    [("pets=/data/x", "pets", "/data/x"), ("/data/x", None, "/data/x"), ("/data/a=b", None, "/data/a=b")],
)
def test_split_name__reads_a_name_before_the_folder(argument: str, name: str | None, folder: str) -> None:
    assert split_name(argument) == (name, Path(folder))


def test_split_name__takes_a_folder_that_exists_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "size=32").mkdir()
    assert split_name("size=32") == (None, Path("size=32"))


@pytest.mark.parametrize("argument", ["=/data/x", "pets="])
def test_split_name__refuses_half_a_name(argument: str) -> None:
    with pytest.raises(ProtoRKDError, match="must read NAME=FOLDER"):
        split_name(argument)


def test_image_folder__refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=r"absent must be a folder .*; got nothing there"):
        read_image_folder(tmp_path / "absent")


def test_image_folder__refuses_a_file(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match="got a file"):
        read_image_folder(fill_folder(tmp_path, "a.jpg") / "a.jpg")


def test_image_folder__refuses_a_folder_without_classes(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match="must hold one sub-folder a class; got none"):
        read_image_folder(fill_folder(tmp_path / "flat", "a.jpg"))


def test_image_folder__refuses_an_empty_class(tmp_path: Path) -> None:
    root = fill_folder(tmp_path / "pets", "dog/a.jpg", "cat/readme.txt")
    with pytest.raises(ProtoRKDError, match=r"pets/cat must hold images; got none"):
        read_image_folder(root)


@pytest.mark.parametrize("split", ["test", "val"])
def test_splits__are_train_and_the_evaluation_split(tmp_path: Path, split: str) -> None:
    root = fill_folder(
        tmp_path / "pets", "train/dog/a.jpg", "train/cat/b.jpg", f"{split}/dog/c.jpg", f"{split}/cat/d.jpg"
    )
    train, test = read_splits(root)
    assert (train.name, test.name) == ("pets", "pets")
    assert (train.root, test.root) == (root / "train", root / split)
    assert train.images == ("cat/b.jpg", "dog/a.jpg")
    assert test.images == ("cat/d.jpg", "dog/c.jpg")


def test_splits__refuse_a_folder_without_training_images(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=r"must hold train/ and test/ .*; got no class folders in .*train"):
        read_splits(fill_folder(tmp_path / "pets", "test/dog/a.jpg"))


def test_splits__refuse_different_classes(tmp_path: Path) -> None:
    root = fill_folder(tmp_path / "pets", "train/dog/a.jpg", "train/cat/b.jpg", "test/dog/c.jpg")
    with pytest.raises(ProtoRKDError, match=r"must hold the same classes; got 'cat' in one of them only\."):
        read_splits(root)

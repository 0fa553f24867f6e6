"""Images in an object store: known by their bytes, read once, and never taken for missing when the network fails."""

import pickle
from pathlib import Path

import pytest
from image_set_contract import NAMES, IdentityContract

from data_schemas.errors import ProtoRKDError
from pipeline.remote import cache as object_cache
from pipeline.remote import object_store as objects
from pipeline.remote.errors import RemoteError
from pipeline.remote.object_store import Objects
from pipeline.store.file_digests import FileDigests
from stages.components.images.decoding import ImageRejected, open_image
from stages.components.images.opening import identify_images
from stages.components.images.remote_image_set import MAX_BYTES, RemoteImageSet, _shared_folder
from stages.components.inputs.path_checks import check_inside
from stages.components.inputs.remote_manifest import local_copy


@pytest.fixture
def image_pairs(bucket, pairs_folder, tmp_path, monkeypatch):
    """Eight images in the bucket, as in a folder; and this machine's cache of objects."""
    monkeypatch.setenv(object_cache.FOLDER_VARIABLE, str(tmp_path / "objects"))
    pairs = pairs_folder(8, 40)
    store = Objects(f"{bucket}/set")
    for image in pairs.images:
        store.write(image, (pairs.root / image).read_bytes())
    return pairs, Path(store.url)


@pytest.fixture
def digests(tmp_path):
    return FileDigests(tmp_path / "memo.sqlite")


class TestRemoteImageSet(IdentityContract):
    """Objects of a bucket, and this machine's cache of them."""

    @pytest.fixture
    def build(self, folder, bucket, tmp_path, monkeypatch):
        monkeypatch.setenv(object_cache.FOLDER_VARIABLE, str(tmp_path / "objects"))
        store = Objects(f"{bucket}/set")

        def make(names):
            for name in NAMES:
                store.write(name, (folder / name).read_bytes()) if (folder / name).exists() else store.remove([name])
            return RemoteImageSet(root=Path(store.url), paths=list(names))

        return make


def identify(root, paths, digests, identity="content"):
    return identify_images(root, paths, identity=identity, file_digests=digests)


def test_identity__is_that_of_the_same_files_and_read_once(image_pairs, digests, bucket_server):
    pairs, root = image_pairs
    found = identify(root, pairs.images, digests)
    assert found.digest == identify(pairs.root, list(pairs.images), digests).digest
    assert found.location == str(root).replace("s3:/", "s3://")
    bucket_server.requests.clear()
    assert identify(root, pairs.images, digests).digest == found.digest
    assert [method for method, _ in bucket_server.requests] == ["GET"]  # a listing


def test_identity__changes_with_the_bytes_of_one_object(image_pairs, digests, bucket_server):
    pairs, root = image_pairs
    before = identify(root, pairs.images, digests).digest
    Objects(str(root).replace("s3:/", "s3://")).write(pairs.images[0], (pairs.root / pairs.images[1]).read_bytes())
    bucket_server.requests.clear()
    assert identify(root, pairs.images, digests).digest != before
    assert bucket_server.count() == 2  # the listing, and the one that has changed


def test_select__of_an_image_that_was_missing_when_it_was_hashed_opens_none_that_came_since(image_pairs, digests):
    pairs, root = image_pairs
    images = identify(root, [pairs.images[0], "late.jpg"], digests).value
    Objects(str(root).replace("s3:/", "s3://")).write("late.jpg", (pairs.root / pairs.images[1]).read_bytes())
    for chosen in (images, images.select([0, 1])):
        with pytest.raises(ImageRejected, match="missing object"):
            chosen.open(1)


def test_identity__by_path_reads_nothing(image_pairs, digests, bucket_server):
    pairs, root = image_pairs
    bucket_server.requests.clear()
    identify(root, pairs.images, digests, identity="path")
    assert bucket_server.requests == []


def test_identity__of_few_among_very_many_asks_for_each_by_itself(image_pairs, digests, bucket_server, monkeypatch):
    pairs, root = image_pairs
    monkeypatch.setattr(
        "stages.components.images.remote_image_set._LISTED_AT_LEAST", -24
    )  # 24 + 8 images an image that is wanted
    whole = identify(pairs.root, list(pairs.images[:3]), digests).digest
    assert identify(root, pairs.images[:3], digests).digest == whole
    assert bucket_server.count("HEAD") == 3


def test_open__reads_nothing_anew_that_was_kept_when_it_was_hashed(image_pairs, digests, bucket_server):
    pairs, root = image_pairs
    images = identify(root, pairs.images, digests).value
    bucket_server.requests.clear()
    expected = open_image(pairs.root / pairs.images[3])
    assert (pickle.loads(pickle.dumps(images)).select([3]).open(0).pixels() == expected).all()
    assert bucket_server.requests == []


def test_read_ahead__reads_many_at_a_time_and_each_once(image_pairs, digests, bucket_server, monkeypatch):
    pairs, root = image_pairs
    monkeypatch.setenv(object_cache.SIZE_VARIABLE, "0")
    images = identify(root, pairs.images, digests, identity="path").value
    bucket_server.requests.clear()
    images.read_ahead([1, 2, 3, 1])
    for number in (1, 2, 3):
        images.open(number)
    assert bucket_server.count("GET") == 3


def test_missing__is_a_rejection_and_a_failing_store_is_an_error(image_pairs, digests, bucket_server, monkeypatch):
    pairs, root = image_pairs
    monkeypatch.setattr(objects, "MAX_RETRIES", 1)
    objects._client.cache_clear()
    found = identify(root, [*pairs.images, "images/none.jpg", "images//none.jpg"], digests)
    assert found.value.missing == {8: "missing object", 9: "missing object"}
    by_path = identify(root, [*pairs.images, "images/none.jpg"], digests, identity="path").value
    with pytest.raises(ImageRejected, match="missing object"):
        by_path.open(8)
    bucket_server.answer_with("503 Slow Down", method="GET", part=pairs.images[0], times=9)
    with pytest.raises(ProtoRKDError, match="must be reachable; got 503") as caught:
        by_path.open(0)
    assert type(caught.value) is ProtoRKDError  # what DataLoader hands on
    bucket_server.faults.clear()
    bucket_server.answer_with("403 Forbidden", method="GET", part=pairs.images[1], times=9)
    with pytest.raises(ProtoRKDError, match="got 403"):
        by_path.open(1)
    with pytest.raises(RemoteError, match="got 403"):
        identify(root, pairs.images, FileDigests(None))
    objects._client.cache_clear()


def test_open__of_an_image_that_has_changed_since_is_an_error(image_pairs, digests, monkeypatch):
    pairs, root = image_pairs
    monkeypatch.setenv(object_cache.SIZE_VARIABLE, "0")
    images = identify(root, pairs.images, digests).value
    Objects(str(root).replace("s3:/", "s3://")).write(pairs.images[0], (pairs.root / pairs.images[1]).read_bytes())
    with pytest.raises(ProtoRKDError, match="it has changed"):
        images.open(0)


def test_open__of_a_damaged_cache_reads_the_object(image_pairs, digests, tmp_path, bucket_server):
    pairs, root = image_pairs
    images = identify(root, pairs.images, digests).value
    for path in (tmp_path / "objects").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    assert (images.open(0).pixels() == open_image(pairs.root / pairs.images[0])).all()


def test_cache__stays_below_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(object_cache, "_NUM_PARTS", 1)
    monkeypatch.setattr(object_cache, "_LOOK_EVERY", 1)
    monkeypatch.setattr(object_cache.ObjectCache, "_path", lambda cache, name: cache.folder / "part" / name)
    cache = object_cache.ObjectCache(tmp_path, 1000)
    for number in range(30):
        cache.write(str(number), bytes(100))
    cache.write("large", bytes(1001))
    assert len(list((tmp_path / "part").iterdir())) == 10
    assert cache.read("29") is not None
    assert cache.read("0") is None
    assert cache.read("large") is None


def test_large_object__is_rejected_and_not_read(image_pairs, digests, monkeypatch):
    pairs, root = image_pairs
    monkeypatch.setattr("stages.components.images.remote_image_set.MAX_BYTES", 100)
    images = identify(root, pairs.images, digests, identity="path").value
    with pytest.raises(ImageRejected, match="object of more than"):
        images.open(0)
    assert MAX_BYTES > 1 << 20


@pytest.mark.parametrize(
    ("path", "root", "is_inside"),
    [
        ("a/b.jpg", "s3://bucket/set", True),
        ("s3://bucket/set/a.jpg", "s3://bucket/set", True),
        ("s3://bucket/setting/a.jpg", "s3://bucket/set", False),
        ("s3://other/set/a.jpg", "s3://bucket/set", False),
        ("https://169.254.169.254/latest", "s3://bucket/set", False),
        ("../secret.jpg", "s3://bucket/set", False),
        ("s3://bucket/set/../secret.jpg", "s3://bucket/set", False),
        ("/etc/passwd", "s3://bucket/set", False),
        ("s3://bucket/set/a.jpg", "/data", False),
    ],
)
def test_path__leads_nowhere_out_of_its_root(path, root, is_inside):
    if is_inside:
        check_inside([path], Path(root))
        return
    with pytest.raises(ProtoRKDError, match=r"must stay below .*--allow-outside"):
        check_inside([path], Path(root))


def test_paths__may_be_urls_and_files_where_that_is_allowed(image_pairs, digests):
    pairs, root = image_pairs
    url = f"{str(root).replace('s3:/', 's3://')}/{pairs.images[1]}"
    images = identify(pairs.root, [pairs.images[0], url], digests).value
    assert (images.open(0).pixels() == open_image(pairs.root / pairs.images[0])).all()
    assert (images.open(1).pixels() == open_image(pairs.root / pairs.images[1])).all()


def test_listing__starts_at_the_folder_that_all_share():
    assert _shared_folder(["a/b/1", "a/b/2"]) == "a/b"
    assert _shared_folder(["a/bc/1", "a/b/2"]) == "a"
    assert _shared_folder(["1", "a/b/2"]) == ""


def test_manifest__is_fetched_once_and_again_when_it_has_changed(bucket, bucket_server, tmp_path, monkeypatch):
    monkeypatch.setenv(object_cache.FOLDER_VARIABLE, str(tmp_path / "objects"))
    store, place = Objects(f"{bucket}/lists"), Path(f"{bucket}/lists/train.tsv")
    store.write("train.tsv", b"one")
    assert local_copy(place).read_bytes() == b"one"
    bucket_server.requests.clear()
    copy = local_copy(place)
    assert (copy.name, copy.read_bytes()) == ("train.tsv", b"one")
    assert bucket_server.count() == 1  # answered by 304
    store.write("train.tsv", b"two")
    assert local_copy(place).read_bytes() == b"two"
    copy.write_bytes(b"damaged")
    assert local_copy(place).read_bytes() == b"two"
    with pytest.raises(ProtoRKDError, match="must name an object that is there"):
        local_copy(Path(f"{bucket}/lists/none.tsv"))
    assert local_copy(tmp_path) == tmp_path

import sys

import click
import pytest
from click.testing import CliRunner

from data_schemas.errors import ProtoRKDError
from pipeline.commands.store_options import open_store, store_options
from pipeline.remote.remote_store import RemoteStore, default_cache
from pipeline.store.store import Store


def opened(*words, **options):
    stores = []

    def show(store):
        stores.append(store)

    command = click.Command("show", params=store_options(), callback=show)
    result = CliRunner().invoke(command, [*words], catch_exceptions=False, **options)
    assert result.exit_code == 0, result.output
    return stores[0]


def test_store__is_a_folder_unless_a_url_is_given(tmp_path):
    assert type(opened()) is Store
    assert str(opened()) == "store"
    assert opened("--store", str(tmp_path)).root == tmp_path
    found = opened("--store", "s3://bucket/team/", "--store-cache", str(tmp_path))
    assert isinstance(found, RemoteStore)
    assert (str(found), found.root) == ("s3://bucket/team", tmp_path)


def test_store__is_taken_from_the_environment(tmp_path):
    variables = {"PROTORKD_STORE": "s3://bucket/team", "PROTORKD_STORE_CACHE": str(tmp_path)}
    found = opened(env=variables)
    assert (str(found), found.root) == ("s3://bucket/team", tmp_path)


def test_cache__is_one_for_each_url_and_server(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    alike = {default_cache("s3://a/b-c"), default_cache("s3://a-b/c"), default_cache("s3://a/b/c")}
    assert len(alike) == 3
    assert default_cache("s3://a/b/c/") in alike
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://other.example")
    assert default_cache("s3://a/b/c") not in alike
    assert default_cache("s3://a/b/c").parent == tmp_path / "protorkd" / "stores"


def test_store__without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ProtoRKDError, match=r"pip install 'protorkd\[s3\]'"):
        open_store("s3://bucket/team")


def test_store__of_a_kind_that_is_not_known_says_so(tmp_path):
    with pytest.raises(ProtoRKDError, match="must be a place that obstore opens"):
        open_store("ftp://host/x", cache=tmp_path).find("toy", "0" * 32)

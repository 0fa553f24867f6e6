"""Prompts by name: looked up as sentence-transformers does, put before texts on every path, or refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router
from workbench import with_prompts

from data_schemas.errors import ProtoRKDError
from stages.components.teacher.batching import LibraryBatches, PaddedBatches
from stages.components.teacher.identity import TeacherSource, find_teacher
from stages.components.teacher.loading import load_model
from stages.components.teacher.prompts import named_prompt
from stages.components.teacher.teacher import Teacher

PROMPTS = {"query": "red square: ", "passage": "blue ", "document": "", "nothing": None}
CAPTIONS = ["circle", "green square beside a yellow stripe", "", "one two three", "red"]


@pytest.fixture(scope="module")
def prompted(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_prompts(bert_folder, tmp_path_factory.mktemp("prompted") / "teacher", PROMPTS)


@pytest.fixture(scope="module")
def unpooled(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose mean leaves the prompt's tokens out, as INSTRUCTOR's does."""
    return with_prompts(bert_folder, tmp_path_factory.mktemp("unpooled") / "teacher", PROMPTS, in_mean=False)


def text_of(name: str, folder: Path) -> str:
    return named_prompt(name, find_teacher(str(folder)), flag="--prompt-name")


def test_named_prompt__is_the_text_that_the_library_has(prompted: Path) -> None:
    theirs = SentenceTransformer(str(prompted), device="cpu").prompts
    for name in PROMPTS:
        assert text_of(name, prompted) == theirs[name]


def test_named_prompt__that_the_teacher_lacks_lists_those_it_has(prompted: Path) -> None:
    with pytest.raises(ProtoRKDError, match=r"--prompt-name must name .*got corpus.*query \('red square: '\), "):
        text_of("corpus", prompted)


@pytest.mark.parametrize("prompts", [{}, None])
def test_named_prompt__of_a_teacher_without_prompts_is_refused(
    prompts: Any, bert_folder: Path, word_vectors: Path, tmp_path: Path
) -> None:
    bare = with_prompts(bert_folder, tmp_path / "bare", prompts)
    for folder in (bare, bert_folder.parent / "plain", word_vectors):
        with pytest.raises(ProtoRKDError, match=r"got query\. .* has none\. Leave the flag out"):
            text_of("query", folder)


def test_named_prompt__without_text_is_refused_where_a_default_would_stand_in(
    bert_folder: Path, tmp_path: Path
) -> None:
    folder = with_prompts(bert_folder, tmp_path / "teacher", PROMPTS, default="query")
    assert text_of("passage", folder) == "blue "
    with pytest.raises(ProtoRKDError, match=r"puts 'red square: ' before texts by default; got document, which is em"):
        text_of("document", folder)


@pytest.mark.parametrize("is_old", [False, True])
def test_named_prompt__cannot_choose_the_route_of_a_router(is_old: bool, prompted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "routed"
    sides = [list(SentenceTransformer(str(prompted), device="cpu")) for _ in range(2)]
    model = SentenceTransformer(modules=[Router.for_query_document(*sides)], device="cpu", prompts={"query": "red "})
    model.save(str(folder))
    if is_old:
        modules = json.loads((folder / "modules.json").read_text())
        modules[0]["type"] = "sentence_transformers.models.Asym"
        (folder / "modules.json").write_text(json.dumps(modules))
        shutil.move(folder / "router_config.json", folder / "config.json")
    with pytest.raises(ProtoRKDError, match=r"has a route for each of query, document \(Router\)\. Save the one"):
        text_of("query", folder)


def test_router__whose_texts_go_nowhere_is_refused(prompted: Path, tmp_path: Path) -> None:
    sides = [list(SentenceTransformer(str(prompted), device="cpu")) for _ in range(2)]
    router = Router.for_query_document(*sides, default_route=None, allow_empty_key=False)
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "routed"))
    with pytest.raises(ProtoRKDError, match=r"without being told its task; .* of query, document \(Router\) and none"):
        load_model(find_teacher(str(tmp_path / "routed")))


def assert_prompted(teacher: Teacher, name: str, folder: Path) -> None:
    model = SentenceTransformer(str(folder), device="cpu")
    expected = model.encode(CAPTIONS, prompt_name=name, show_progress_bar=False)
    np.testing.assert_allclose(teacher.encode(CAPTIONS), expected, atol=1e-5)
    plain = model.encode(CAPTIONS, show_progress_bar=False)
    assert np.allclose(expected, plain, atol=1e-3) == (not PROMPTS[name])


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("folder", ["prompted", "unpooled"])
@pytest.mark.parametrize("way", [PaddedBatches, LibraryBatches])
def test_prompt__stands_before_captions_on_each_way(
    name: str, folder: str, way: type[Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = request.getfixturevalue(folder)
    if way is LibraryBatches:
        monkeypatch.setattr(PaddedBatches, "fits", lambda model: False)
    teacher = Teacher(find_teacher(str(path)), prompt=text_of(name, path))
    assert isinstance(teacher._batcher, way)
    assert_prompted(teacher, name, path)


def test_prompt__stands_before_captions_that_processes_share(unpooled: Path) -> None:
    source, prompt = find_teacher(str(unpooled)), text_of("query", unpooled)
    with Teacher(source, prompt=prompt, devices=["cpu", "cpu"]) as shared:
        assert_prompted(shared, "query", unpooled)


@pytest.mark.parametrize("location", ["hkunlp/instructor-large@1f2e3d", "hkunlp/instructor-xl"])
def test_prompt__is_refused_where_the_library_goes_by_the_name_on_the_hub(
    location: str, prompted: Path, unpooled: Path
) -> None:
    def load(folder: Path, prompt: str) -> Teacher:
        found: TeacherSource = find_teacher(str(folder))
        return Teacher(replace(found, location=location), prompt=prompt)

    with pytest.raises(ProtoRKDError, match=r"A prompt must go with a model whose pooling is known; .*model\.save"):
        load(prompted, "red ")
    load(prompted, "")
    load(unpooled, "red ")

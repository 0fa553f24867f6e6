import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from workbench import WORDS

from data_schemas.errors import ProtoRKDError
from pipeline.store.file_digests import FileDigests
from stages.components.teacher.identity import identify_teacher
from stages.export.formats.text_route import TextRoute, write_text_route


def write(folder: Path, out: Path, *, trust_code: bool = False) -> TextRoute:
    teacher = identify_teacher(str(folder), file_digests=FileDigests(out.parent / "memo.sqlite"), trust_code=trust_code)
    source = teacher.value
    files = [name for name in teacher.parts if (source.path / name).is_file()]
    return write_text_route(source, files, out)


def test_text_route__has_the_teachers_files_as_they_were(bert_folder: Path, tmp_path: Path) -> None:
    route = write(bert_folder, tmp_path / "out")
    assert [name.split("_")[2] for name in route.modules] == ["Transformer", "Pooling", "Normalize"]
    for file in (tmp_path / "out" / "text_0_Transformer").iterdir():
        assert file.read_bytes() == (bert_folder / file.name).read_bytes()
    assert not (tmp_path / "out" / "text_0_Transformer" / "modules.json").exists()
    [pooling] = (bert_folder / "1_Pooling").iterdir()
    assert (tmp_path / "out" / "text_1_Pooling" / pooling.name).read_bytes() == pooling.read_bytes()


def test_text_route__keeps_the_teachers_prompts(bert_folder: Path, tmp_path: Path) -> None:
    teacher = shutil.copytree(bert_folder, tmp_path / "teacher")
    path = teacher / "config_sentence_transformers.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "prompts": {"query": "red "}, "default_prompt_name": "query"}))
    route = write(teacher, tmp_path / "out")
    assert (route.prompts, route.default_prompt_name) == ({"query": "red "}, "query")


def test_text_route__of_a_plain_transformer_writes_down_what_the_library_adds(
    bert_folder: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    plain = bert_folder.parent / "plain"
    route = write(plain, tmp_path / "out")
    assert [name.split("_")[2] for name in route.modules] == ["Transformer", "Pooling"]
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(route.modules.items())
    ]
    (tmp_path / "out" / "modules.json").write_text(json.dumps(entries))
    given = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(list(WORDS))
    assert np.array_equal(given, SentenceTransformer(str(plain), device="cpu").encode(list(WORDS)))


def test_text_route__takes_the_captions_side_of_a_router(bert_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Router

    bert = SentenceTransformer(str(bert_folder), device="cpu")
    router = Router({"text": [bert[0], bert[1]], "other": [bert[0], bert[1]]}, default_route="text")
    SentenceTransformer(modules=[router, Normalize()], device="cpu").save(str(tmp_path / "teacher"))
    route = write(tmp_path / "teacher", tmp_path / "out")
    assert [name.split("_")[2] for name in route.modules] == ["Transformer", "Pooling", "Normalize"]
    assert (tmp_path / "out" / "text_0_Transformer" / "model.safetensors").is_file()


def test_text_route__lets_a_teachers_code_lie_where_the_library_looks(bert_folder: Path, tmp_path: Path) -> None:
    teacher = shutil.copytree(bert_folder, tmp_path / "teacher")
    (teacher / "own_pooling.py").write_text("class Own: ...\n")
    write(teacher, tmp_path / "untrusted")
    assert not (tmp_path / "untrusted" / "own_pooling.py").exists()
    write(teacher, tmp_path / "trusted", trust_code=True)
    assert (tmp_path / "trusted" / "own_pooling.py").is_file()
    (teacher / "modeling_protorkd.py").write_text("")
    with pytest.raises(ProtoRKDError, match="must not be called"):
        write(teacher, tmp_path / "clash", trust_code=True)

"""A teacher is loaded whole, in float32 and with a pooling that is told, or it is refused."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.components.teacher.identity import find_teacher
from stages.components.teacher.loading import load_model
from stages.components.teacher.teacher import Teacher

CAPTIONS = ["red circle", "blue square beside a yellow stripe", "one"]
WEIGHTS = "model.safetensors"
Change = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


@pytest.fixture(scope="module")
def dense_folder(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the narrow BERT with a linear layer behind its pooling."""
    root = tmp_path_factory.mktemp("dense")
    model = SentenceTransformer(str(bert_folder), device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SentenceTransformer(modules=[*model, modules.Dense(16, 8)], device="cpu").save(str(root / "saved"))
    return root / "saved"


@pytest.fixture
def altered(bert_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy a teacher, change the tensors of one of its files of weights, and put entries into its configuration."""

    def alter(change: Change, *, base: Path = bert_folder, file: str = WEIGHTS, **config: Any) -> Path:
        root = tmp_path / "altered"
        shutil.copytree(base, root)
        tensors = change(safetensors.torch.load_file(root / file))
        safetensors.torch.save_file({name: value.clone() for name, value in tensors.items()}, root / file)
        settings = json.loads((root / "config.json").read_text())
        (root / "config.json").write_text(json.dumps(settings | config))
        return root

    return alter


def embed(folder: Path) -> np.ndarray:
    return Teacher(find_teacher(str(folder))).encode(CAPTIONS)


def put_before(prefix: str) -> Change:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod.", "module.model."])
def test_loading__strips_what_a_wrapper_puts_before_names(prefix: str, altered: Any, bert_folder: Path) -> None:
    np.testing.assert_array_equal(embed(altered(put_before(prefix))), embed(bert_folder))


def test_loading__strips_what_compiling_layers_puts_into_names(altered: Any, bert_folder: Path) -> None:
    compiled = altered(lambda tensors: {re.sub(r"(layer\.\d+\.)", r"\1_orig_mod.", k): v for k, v in tensors.items()})
    np.testing.assert_array_equal(embed(compiled), embed(bert_folder))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_loading__strips_names_of_the_modules_behind_the_transformer(
    prefix: str, altered: Any, dense_folder: Path
) -> None:
    [file] = [path.relative_to(dense_folder).as_posix() for path in dense_folder.glob("*_Dense/model.safetensors")]
    wrapped = altered(put_before(prefix), base=dense_folder, file=file)
    np.testing.assert_array_equal(embed(wrapped), embed(dense_folder))


def test_loading__strips_names_in_pickles(bert_folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(bert_folder, tmp_path / "pickled")
    tensors = safetensors.torch.load_file(root / WEIGHTS)
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, root / "pytorch_model.bin")
    (root / WEIGHTS).unlink()
    np.testing.assert_array_equal(embed(root), embed(bert_folder))
    assert not (root / WEIGHTS).exists()  # the user's folder stays as it is


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "model."])
def test_find_teacher__names_the_layers_that_are_missing(prefix: str, altered: Any) -> None:
    folder = altered(lambda tensors: {prefix + name: tensors[name] for name in tensors if ".layer.1." not in name})
    with pytest.raises(ProtoRKDError, match=r"the weights of every layer, .* lacks layer 1\. Fetch it again"):
        find_teacher(str(folder))


def test_loading__names_the_weights_of_a_layer_that_are_missing(altered: Any) -> None:
    folder = altered(lambda tensors: {name: tensors[name] for name in tensors if ".layer.1.attention." not in name})
    with pytest.raises(ProtoRKDError, match=r"every weight of its BertModel.*lacks 10: encoder\.layer\.1\.attention"):
        embed(folder)


def test_loading__names_the_weights_of_a_dense_layer_that_are_missing(altered: Any, dense_folder: Path) -> None:
    [file] = [path.relative_to(dense_folder).as_posix() for path in dense_folder.glob("*_Dense/model.safetensors")]
    folder = altered(lambda tensors: {"linear.bias": tensors["linear.bias"]}, base=dense_folder, file=file)
    with pytest.raises(ProtoRKDError, match=r"can load; .*Missing key\(s\).*linear\.weight"):
        embed(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 4}, r"lacks layer 2, layer 3\."),
        (
            {"num_hidden_layers": 1},
            r"as many layers in config\.json as in its weights.* also hold 16: encoder\.layer\.1",
        ),
        ({"intermediate_size": 16}, r"lacks 6: encoder\.layer\.0\.intermediate\.dense\.bias"),
        ({"model_type": "distilbert", "architectures": ["DistilBertModel"]}, r"every weight of its DistilBertModel"),
    ],
)
def test_loading__refuses_the_configuration_of_another_network(
    config: dict[str, Any], message: str, altered: Any
) -> None:
    with pytest.raises(ProtoRKDError, match=message):
        embed(altered(dict, **config))


def test_loading__does_without_a_pooler_that_no_caption_passes_through(altered: Any, bert_folder: Path) -> None:
    folder = altered(lambda tensors: {name: value for name, value in tensors.items() if not name.startswith("pooler")})
    np.testing.assert_array_equal(embed(folder), embed(bert_folder))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_named", [True, False])
def test_loading__widens_half_precision(dtype: torch.dtype, is_named: bool, altered: Any, tmp_path: Path) -> None:
    name = str(dtype).removeprefix("torch.")
    config = {"dtype": name if is_named else None}
    half = altered(lambda tensors: {key: value.to(dtype) for key, value in tensors.items()}, **config)
    assert {value.dtype for value in load_model(find_teacher(str(half))).state_dict().values()} == {torch.float32}
    wide = shutil.copytree(half, tmp_path / "wide")
    tensors = safetensors.torch.load_file(half / WEIGHTS)
    safetensors.torch.save_file({key: value.float() for key, value in tensors.items()}, wide / WEIGHTS)
    (wide / "config.json").write_text((wide / "config.json").read_text().replace(f'"{name}"', '"float32"'))
    np.testing.assert_array_equal(embed(half), embed(wide))


def test_loading__compares_bf16_with_float32_where_files_hold_bf16(altered: Any) -> None:
    half = altered(lambda tensors: {key: value.bfloat16() for key, value in tensors.items()}, dtype="bfloat16")
    teacher = Teacher(find_teacher(str(half)), precision="bf16", sample=CAPTIONS)
    exact, rounded = embed(half), teacher.encode(CAPTIONS)
    cosines = (exact * rounded).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert teacher.nearness["fp32_cosine_min"] == pytest.approx(cosines.min(), abs=1e-6)
    assert teacher.nearness["fp32_cosine_min"] < 1 - 1e-7


@pytest.mark.usefixtures("quiet_log")
def test_loading__says_that_no_pooling_is_named(bert_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        load_model(find_teacher(str(bert_folder)))
        assert "no pooling" not in caplog.text
        load_model(find_teacher(str(bert_folder.parent / "plain")))
    assert f"no pooling is named in {bert_folder.parent / 'plain'}: the mean is taken" in caplog.messages


def test_loading__says_that_a_model_gives_vectors_of_tokens_alone(bert_folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(bert_folder, tmp_path / "tokens")
    listed = json.loads((root / "modules.json").read_text())
    (root / "modules.json").write_text(json.dumps(listed[:1]))
    with pytest.raises(ProtoRKDError, match="--teacher must give one embedding for each caption; got a model"):
        embed(root)


@pytest.mark.usefixtures("quiet_log")
def test_loading__says_that_a_model_has_prompts_and_none_is_asked_for(
    bert_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = shutil.copytree(bert_folder, tmp_path / "prompted")
    settings = json.loads((root / "config_sentence_transformers.json").read_text())
    settings |= {"prompts": {"query": "red ", "document": ""}}
    (root / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with caplog.at_level("INFO"):
        Teacher(find_teacher(str(root)), prompt="blue ")
        assert "prompts" not in caplog.text
        Teacher(find_teacher(str(root)))
    [told] = [message for message in caplog.messages if "has prompts" in message]
    assert told.startswith(f"{root} has prompts, and none is put before texts: --prompt-name of encode-teacher, and")
    assert told.endswith("--query-prompt-name of search, evaluate and export, take one of query 'red '")

"""The recipe of an embedding, out of options and out of records old and new."""

from dataclasses import dataclass

import pytest

from stages.components.teacher.encoding_options import EncodingOptions


@dataclass(frozen=True)
class _Params(EncodingOptions):
    shard_rows: int = 256


def test_recipe__is_taken_out_of_parameters_and_records() -> None:
    recipe = EncodingOptions(
        max_tokens=7, prompt="a ", truncate_dim=3, embedding_dtype="float32", teacher_precision="bf16"
    )
    assert EncodingOptions.of(_Params(**recipe.as_dict())) == recipe
    assert EncodingOptions.of({**recipe.as_dict(), "shard_rows": 256}) == recipe


@pytest.mark.parametrize("name", ["teacher_precision", "embedding_dtype"])
def test_recipe__of_a_record_from_before_an_option_has_its_default(name: str) -> None:
    record = EncodingOptions(max_tokens=7).as_dict()
    del record[name]
    assert EncodingOptions.of(record) == EncodingOptions(max_tokens=7)

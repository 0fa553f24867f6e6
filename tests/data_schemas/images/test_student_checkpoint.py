import dataclasses

import pytest

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json, write_json
from data_schemas.images.student_checkpoint import (
    CONFIG_NAME,
    Preprocessing,
    StudentConfig,
    TeacherRecord,
    checkpoint_path,
)


@pytest.fixture
def config():
    return StudentConfig(
        backbone="resnet18",
        embedding_dim=16,
        projection_layers=1,
        preprocessing=Preprocessing(image_size=64),
        teacher=TeacherRecord(identity="0" * 64, dim=16, recipe={"max_tokens": 64, "prompt": ""}),
        losses={"simreg": 1.0},
    )


def test_student_config__comes_back_as_written(config, tmp_path):
    config.write(tmp_path)
    assert StudentConfig.read(tmp_path) == config


def test_student_config__keeps_the_normalisation_of_the_starting_weights(config, tmp_path):
    changed = Preprocessing(image_size=64, mean=(0.5, 0.5, 0.5), std=(0.228, 0.224, 0.225))
    dataclasses.replace(config, preprocessing=changed).write(tmp_path)
    assert StudentConfig.read(tmp_path).preprocessing == changed != config.preprocessing


def test_student_config__refuses_a_newer_schema(config, tmp_path):
    dataclasses.replace(config, schema_version=2).write(tmp_path)
    with pytest.raises(ProtoRKDError, match="schema version 1 or older"):
        StudentConfig.read(tmp_path)


@pytest.mark.parametrize("field", ["backbone", "preprocessing", "teacher", "schema_version"])
def test_student_config__names_a_missing_field(config, tmp_path, field):
    config.write(tmp_path)
    values = read_json(tmp_path / CONFIG_NAME)
    del values[field]
    write_json(tmp_path / CONFIG_NAME, values)
    with pytest.raises(ProtoRKDError, match=rf"student\.json must describe a student; .*{field}"):
        StudentConfig.read(tmp_path)


def test_checkpoint_path__counts_epochs_from_one():
    assert checkpoint_path(1) == "checkpoints/epoch_1.safetensors"

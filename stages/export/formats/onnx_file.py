"""Write the student as an ONNX file for any batch size, and compare it with PyTorch."""

import importlib
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_json, write_unsynced
from data_schemas.images.student_checkpoint import StudentConfig
from stages.components.student.student import Student
from stages.export.formats.preprocessing import describe
from stages.export.modeling_protorkd import ProtoRKDCalibration
from stages.export.parity import require_near, unit

FOLDER = "onnx"
OPSET = 18
INPUT, OUTPUT = "pixel_values", "image_embeds"

_MODEL_NAME, _DATA_NAME = "image_encoder.onnx", "image_encoder.onnx.data"
_INSTALL = "pip install 'protorkd[onnx]'"
_LARGEST_MESSAGE = 1_900_000_000  # bytes; protobuf's limit is 2 GiB
_NUM_CHECKED = (1, 5)


class _UnitLength(nn.Module):
    def __init__(self, student: Student, calibration: ProtoRKDCalibration | None) -> None:
        super().__init__()
        self.student, self.calibration = student, calibration

    def forward(self, pixel_values: Tensor) -> Tensor:
        embeddings = nn.functional.normalize(self.student(pixel_values), dim=1)
        return embeddings if self.calibration is None else self.calibration.extend_images(embeddings)


def write_onnx(
    student: Student, config: StudentConfig, out: Path, *, calibration: ProtoRKDCalibration | None = None
) -> float:
    """Write ``image_encoder.onnx`` and ``preprocessing.json``, and compare with PyTorch by onnxruntime.

    Args:
        student: Student in eval mode, on the CPU.
        config: Configuration of the student.
        out: Folder of the export.
        calibration: What extends the embeddings; None where they are raw.

    Returns:
        Largest difference between numbers of embeddings.

    Raises:
        ProtoRKDError: a package is missing, the backbone has no ONNX form, or the embeddings differ.
    """
    onnx, _, runtime = (_import(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    network = _UnitLength(student, calibration).eval()
    size = config.preprocessing.image_size
    model = _strip(_convert(network, size, backbone=config.backbone), onnx)
    (out / FOLDER).mkdir()
    if model.ByteSize() > _LARGEST_MESSAGE:
        onnx.save_model(model, out / FOLDER / _MODEL_NAME, save_as_external_data=True, location=_DATA_NAME)
    else:
        write_unsynced(out / FOLDER / _MODEL_NAME, model.SerializeToString(deterministic=True))
    write_json(
        out / FOLDER / "preprocessing.json",
        {
            "opset": OPSET,
            "input": {"name": INPUT, "shape": ["batch", 3, size, size], "type": "float32"},
            "output": {
                "name": OUTPUT,
                "shape": ["batch", config.embedding_dim + (calibration is not None)],
                "type": "float32",
                "unit_length": calibration is None,
                **({} if calibration is None else {"calibration": calibration.kind}),
            },
            **describe(config.preprocessing),
        },
    )
    return _compare(network, runtime, out / FOLDER / _MODEL_NAME, size=size)


def _convert(network: nn.Module, size: int, *, backbone: str) -> Any:
    images = torch.zeros(2, 3, size, size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings about its own code
            program: Any = torch.onnx.export(
                network,
                (images,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    except Exception as error:  # the exporter raises its own errors and those of its passes
        message = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ProtoRKDError(
            f"--format onnx must have a backbone that torch can write as ONNX; got {backbone}: {message}. Leave that "
            "format out."
        ) from error
    return program.model_proto


def _strip(model: Any, onnx: Any) -> Any:
    """Remove what depends on the machine: stack traces with paths, and the exporter's version."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    model.producer_version = ""
    for graph in (model.graph, *model.functions):
        for part in (graph, *graph.node, *graph.value_info, *getattr(graph, "initializer", ())):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    return model


@torch.inference_mode()
def _compare(network: _UnitLength, runtime: Any, path: Path, *, size: int) -> float:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    differences = []
    for number in _NUM_CHECKED:
        images = torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(number))
        [embeddings] = session.run([OUTPUT], {INPUT: images.numpy()})
        expected = network(images).numpy().astype(np.float32)
        expected = unit(expected) if network.calibration is None else expected
        differences.append(require_near(embeddings, expected, what=f"Embeddings of {number} images by onnxruntime"))
    return max(differences)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ProtoRKDError(f"--format onnx must have {name} installed; got {error}. Run: {_INSTALL}") from error

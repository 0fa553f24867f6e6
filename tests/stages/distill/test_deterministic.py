"""--deterministic on a GPU: what refuses it, by operations that torch lists, and what it is for."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from workbench import SMALL, Cli, Pairs, start_process, wait_for

from stages.components.backbones.torchvision_family import TorchvisionFamily
from stages.components.student.student import build_student
from stages.distill.objectives import OBJECTIVES, WeightedObjectives, build_objective

# Of the operations that throw on a GPU, by the documentation of torch.use_deterministic_algorithms. Of NLLLoss, which
# it lists, nll_loss2d alone does; bincount, with weights alone; cumsum, in torch 2.11.
REFUSED = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "_ctc_loss_backward",
    "adaptive_max_pool2d_backward", "avg_pool3d_backward", "cumsum", "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward",
    "grid_sampler_2d_backward", "grid_sampler_3d_backward", "histc", "max_unpool2d", "max_unpool3d", "median",
    "nll_loss2d_forward", "put", "put_", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "reflection_pad3d_backward", "scatter_reduce", "scatter_reduce_", "_upsample_bicubic2d_aa_backward",
    "_upsample_bilinear2d_aa_backward", "upsample_bicubic2d_backward", "upsample_bilinear2d_backward",
    "upsample_linear1d_backward", "upsample_trilinear3d_backward",
}  # fmt: skip
POOLING = {"_adaptive_avg_pool2d_backward"}
_SIZES = dict.fromkeys(("compress-1q", "compress-2q", "seed"), "queue_size")
_SIZES |= dict.fromkeys(("dino", "protocpc"), "num_prototypes")


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which operations run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        self.found.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def refused(name: str) -> set[str]:
    """Operations of a student's step that refuse; tensors without memory tell them, but of RegNet, which reads some."""
    device, image_size = ("cpu", 64) if name.startswith("regnet") else ("meta", 224)
    with torch.device(device):
        student = build_student(name, embedding_dim=8, image_size=image_size)
        images = torch.zeros(2, 3, image_size, image_size)
    operations = Operations()
    with operations:
        student(images).sum().backward()
    assert "convolution_backward" in operations.found
    return operations.found & REFUSED


@pytest.mark.parametrize(
    ("name", "refuses"),
    [("alexnet", POOLING), ("vgg11", POOLING), ("vgg16_bn", POOLING), ("resnet18", set()), ("squeezenet1_1", set())],
)
def test_students__refuse_where_they_pool_to_several_places(name: str, refuses: set[str]) -> None:
    assert refused(name) == refuses


@pytest.mark.slow
@pytest.mark.parametrize("name", TorchvisionFamily().names())
def test_students__refuse_by_name_as_the_documentation_has_it(name: str) -> None:
    assert refused(name) == (POOLING if name == "alexnet" or name.startswith("vgg") else set())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives__refuse_nothing(name: str) -> None:
    torch.manual_seed(0)
    objective = build_objective(name, dim=8, **({_SIZES[name]: 64} if name in _SIZES else {}))
    objectives, operations = WeightedObjectives({name: (1.0, objective)}), Operations()
    for step in range(20):
        student, teacher = torch.randn(2, 12, 8).unbind()
        with operations:
            rows = step * 12 + torch.arange(12)
            beside = {"rows": rows, "labels": rows % 4, "images": rows // 2, "features": teacher}
            loss, _ = objectives(student=student.requires_grad_(), teacher=teacher, **beside)
            loss.backward()
    assert operations.found
    assert operations.found & REFUSED == set()


def test_training__refuses_nothing(encoded: Pairs, run_cli: Cli) -> None:
    words = ("distill", *SMALL, "--precision", "fp32", "--student", "shufflenet_v2_x0_5", "--epochs", 1)
    losses = ("--loss", "infonce=1", "--loss", "proto-rkd=1", "--target-smoothing", 0.5)
    with Operations() as operations:
        run_cli(*words, *losses, "--ema-decay", 0.9, "--max-grad-norm", 1, "--augmentation", "light")
    assert {"convolution_backward", "_fused_adamw_", "_foreach_lerp_"} <= operations.found
    assert operations.found & REFUSED == set()


GPU_WORDS = ("distill", *SMALL, "--device", "cuda", "--deterministic", "--lr", 1e-3)


@pytest.mark.gpu
@pytest.mark.usefixtures("encoded")
def test_deterministic__training_that_was_stopped_ends_with_the_same_bytes(store: Path, tmp_path: Path) -> None:
    words = (*GPU_WORDS, "--student", "shufflenet_v2_x0_5", "--epochs", 30, "--ema-decay", 0.9)
    undisturbed = shutil.copytree(store, tmp_path / "undisturbed")
    stopped = start_process(*words, "--store", store)
    wait_for(stopped, store, "distill/.draft-*/checkpoints/epoch_3.safetensors")
    stopped.send_signal(signal.SIGTERM)
    assert "distill was asked to stop and did" in stopped.communicate()[1]
    for folder in (store, undisturbed):
        process = start_process(*words, "--store", folder)
        _, lines = process.communicate()
        assert process.returncode == 0, lines
    first, second = (Cli(folder)(*words) for folder in (store, undisturbed))
    assert first["status"] == "unchanged"
    assert first["digest"] == second["digest"]


@pytest.mark.gpu
@pytest.mark.usefixtures("encoded")
def test_deterministic__vgg_says_that_it_cannot(store: Path) -> None:
    process = start_process(*GPU_WORDS, "--student", "vgg11", "--epochs", 1, "--store", store)
    _, lines = process.communicate()
    assert process.returncode == 1
    assert "adaptive_avg_pool2d_backward_cuda has none, and got --student vgg11" in lines

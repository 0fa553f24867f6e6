"""Check the options of a training before anything runs: what only torch and the registries know to be mistakes."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from stages.components.backbones.registry import published_name
from stages.components.compute.device import find_devices
from stages.components.compute.precision import check_precision
from stages.components.student.adapters import find_adaptable, import_peft
from stages.components.student.student import build_student, train_last_blocks
from stages.distill.feature_options import AUTO, check_feature_runtime
from stages.distill.fine_tuning import check_start, last_blocks
from stages.distill.loss_spec import parse_loss_options, parse_losses
from stages.distill.objectives import build_objective, read_options
from stages.distill.options import DistillInputs, DistillParams, DistillRuntime
from stages.distill.reporting.trackers import check_trackers

_DIM = 16


def check_training(params: DistillParams, inputs: DistillInputs, runtime: DistillRuntime) -> None:
    """Refuse options that a training would refuse later, whatever its inputs hold.

    Raises:
        ProtoRKDError: an objective, an option of one, the student, its published weights, the device, the precision
            or a tracker is unknown, not to be had here, or of a value that is not allowed; or an option does not go
            with cached features.
    """
    [device] = find_devices(runtime.device, most=1)
    check_precision(params.precision, device)
    check_objectives(params)
    if inputs.prototypes is not None and not params.reads_prototypes:
        log.info(
            "distill: --prototypes is not read, for no objective of --loss relates to prototypes and --balance is 0"
        )
    if not params.balance and params.balance_prototypes != DistillParams.balance_prototypes:
        raise ProtoRKDError(
            f"--balance-prototypes must come with --balance, which draws by them; got {params.balance_prototypes} "
            "without. Add --balance, such as 0.5, or leave it out."
        )
    if params.balance and params.neighbour_batches:
        raise ProtoRKDError(
            "Only one of --balance and --neighbour-batches must be given, for one draws an example several times in an "
            f"epoch and the other moves each once; got {params.balance:g} and {params.neighbour_batches:g}."
        )
    check_trackers(runtime.report_to)
    if inputs.features is not None:
        check_feature_runtime(runtime)
    if inputs.features not in (None, AUTO):
        return
    check_start(params, inputs)
    if params.lora:
        import_peft()
    if inputs.from_student is not None:
        return  # what it is, the store knows
    starts_somewhere = params.pretrained or inputs.init_from is not None
    if inputs.features is None and params.freeze_backbone and params.augmentation == "none" and starts_somewhere:
        log.info(
            "distill: the frozen backbone computes every image in every epoch; --features auto in place of "
            "--freeze-backbone computes each once, and trains a head of --head on what comes out"
        )
    if params.pretrained:
        published_name(params.student, params.pretrained)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes without numbers
        student = build_student(
            params.student,
            embedding_dim=params.projection_dim or _DIM,
            image_size=params.image_size,
            projection_layers=params.projection_layers,
            pooling=params.pooling,
        )
        if num_blocks := last_blocks(params.unfreeze):
            train_last_blocks(student, num_blocks)
        if params.lora:
            find_adaptable(student.backbone, image_size=params.image_size)


def check_objectives(params: DistillParams) -> None:
    """Build the objectives of ``--loss`` on stand-ins for embeddings, so that they check their options.

    Raises:
        ProtoRKDError: an objective or an option is unknown, or an option has a value that is not allowed.
    """
    losses = parse_losses(params.loss)
    texts = parse_loss_options(params.loss_option, losses)
    with torch.random.fork_rng(devices=[]):
        for name in losses:
            build_objective(
                name,
                dim=_DIM,
                corpus=_AnyCorpus(),
                prototypes=_any_rows,
                num_labels=0,
                **read_options(name, texts.get(name, {})),
            )


class _AnyCorpus:
    """Stands for cached embeddings that are not there yet."""

    num_captions = 1 << 20

    def gather(self, rows: Tensor) -> Tensor:
        return _any_rows(len(rows))


def _any_rows(num: int) -> Tensor:
    return normalize(torch.randn(num, _DIM), dim=1)  # (num, 16)

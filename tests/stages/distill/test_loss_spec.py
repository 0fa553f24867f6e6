"""What ``--loss`` takes and refuses."""

import subprocess
import sys

import pytest

from data_schemas.errors import ProtoRKDError
from stages.distill.loss_spec import format_losses, parse_losses
from stages.distill.options import DistillParams


def test_parse_losses__reads_names_and_weights_in_order() -> None:
    weights = parse_losses(("simreg=1", "proto-rkd=0.5", "rkd = 1e-3"))
    assert list(weights.items()) == [("simreg", 1.0), ("proto-rkd", 0.5), ("rkd", 0.001)]


def test_parse_losses__takes_a_name_alone_as_weight_one() -> None:
    assert parse_losses(["infonce"]) == {"infonce": 1.0}


@pytest.mark.parametrize(
    ("specs", "rule"),
    [
        ((), "at least once"),
        (("",), "name an objective"),
        (("=1",), "name an objective"),
        (("simreg=",), "finite weight above 0; got 'simreg='"),
        (("simreg=one",), "finite weight"),
        (("simreg=1=2",), "finite weight"),
        (("simreg=0",), "finite weight"),
        (("simreg=-1",), "finite weight"),
        (("simreg=inf",), "finite weight"),
        (("simreg=nan",), "finite weight"),
        (("simreg=1", "simreg=2"), "each objective once; got 'simreg' twice"),
    ],
)
def test_parse_losses__refuses_what_it_cannot_weigh_and_names_the_flag(specs: tuple[str, ...], rule: str) -> None:
    with pytest.raises(ProtoRKDError, match=rule) as raised:
        parse_losses(specs)
    assert "--loss" in str(raised.value)


def test_loss_spec__does_not_import_torch() -> None:
    script = "import sys, stages.distill.loss_spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("weight", [1.0, 0.5, 2.0, 1e-7, 0.1 + 0.2, 1e20])
def test_format_losses__is_read_back_exactly(weight: float) -> None:
    assert parse_losses(format_losses({"rkd": weight})) == {"rkd": weight}


@pytest.mark.parametrize("spec", ["simreg", "simreg=1", "simreg=1.0", " simreg = 1e0 "])
def test_distill_params__write_a_loss_one_way(spec: str) -> None:
    assert DistillParams(loss=(spec,)) == DistillParams(loss=("simreg=1",))

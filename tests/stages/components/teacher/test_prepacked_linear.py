"""Linear layers with packed weights: the same numbers, and no weight for anyone who would multiply by it himself."""

import pytest
import torch
from torch import nn

from stages.components.teacher.prepacked_linear import PackedLinear, pack_linears


def network(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(24, 40, bias=bias), nn.GELU(), nn.Sequential(nn.Linear(40, 8)))
    return layers.to(dtype).eval()


def is_packed(layers: nn.Module) -> bool:
    return any(isinstance(module, PackedLinear) for module in layers.modules())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (3, 5, 24), (2048, 24)])
@torch.inference_mode()
def test_pack_linears__changes_no_result(bias: bool, shape: tuple[int, ...]) -> None:
    layers = network(bias=bias)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = layers(values)
    pack_linears(layers)
    torch.testing.assert_close(layers(values), expected, atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_pack_linears__keeps_bf16_near() -> None:
    layers = network(dtype=torch.bfloat16)
    values = torch.randn(64, 24, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = layers(values)
    pack_linears(layers)
    torch.testing.assert_close(layers(values), expected, atol=1e-2, rtol=2e-2)


def test_pack_linears__leaves_layers_that_are_more_than_linear() -> None:
    attention = nn.MultiheadAttention(8, 2)
    pack_linears(attention)
    assert type(attention.out_proj) is not PackedLinear


def test_pack_linears__leaves_all_where_the_operators_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layers = network()
    pack_linears(layers)
    assert not is_packed(layers)


def test_packed_linear__says_its_shape_and_dtype_and_gives_no_weight() -> None:
    layers = network(dtype=torch.bfloat16)
    pack_linears(layers)
    if not is_packed(layers):
        pytest.skip("this processor has no packed product")
    first = layers[0]
    assert (tuple(first.weight.shape), first.weight.dtype) == ((40, 24), torch.bfloat16)
    assert first.weight.isnan().all()

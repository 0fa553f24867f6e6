"""Linear layers with weights packed once for a CPU's matrix product, instead of in every call."""

import torch
from torch import Tensor, nn

_ROWS_HINT = 1024  # the layout depends on it a little; any number of rows is right
_SAMPLE_ROWS = 8
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class PackedLinear(nn.Module):
    """A linear layer for inference by oneDNN's product, with a weight that is packed once.

    ``weight`` has the shape and dtype that other code may look up, but only NaN as values.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.weight = torch.full((), torch.nan, dtype=weight.dtype).expand(weight.shape)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.eval()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)

    def forward(self, values: Tensor) -> Tensor:
        """Compute the output of `torch.nn.Linear`."""
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(values, self._packed, self.bias, "none", [], "")
        return packed


def pack_linears(module: nn.Module) -> None:
    """Pack every linear layer below a module that is on an x86 CPU; a layer whose output would change stays.

    torch's compiler uses the same two operators; they are not public, so nothing is packed where they are missing.
    """
    is_x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not is_x86 or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return
    for name, child in list(module.named_children()):
        if type(child) is not nn.Linear:
            pack_linears(child)
        elif child.weight.dtype in _TOLERANCE and (packed := _packed(child)):
            setattr(module, name, packed)


@torch.inference_mode()
def _packed(linear: nn.Linear) -> PackedLinear | None:
    dtype = linear.weight.dtype
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(_SAMPLE_ROWS, linear.in_features, generator=generator).to(dtype)
    expected = linear(sample)
    try:
        packed = PackedLinear(linear)
        output = packed(sample)
    except RuntimeError:
        return None
    largest = float(expected.abs().max())
    return packed if torch.allclose(output, expected, rtol=0, atol=_TOLERANCE[dtype] * largest) else None

"""Time gathers from the table of targets, in the GPU's memory and in the host's."""

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import pipelined, waited
from stages.distill.data.targets import Targets


def targets(setup: Setup) -> Iterator[dict[str, Any]]:
    """Time gathers of random rows, whose numbers lie on the CPU as in training."""
    device, sizes = setup.device, setup.sizes
    table = torch.randn(sizes.num_rows, sizes.dim, dtype=torch.float16, device=device)
    for placement in ("device", "ram"):
        gathered = Targets(table if placement == "device" else table.cpu(), device, placement=placement)
        for num in sizes.gathers:
            rows = torch.randint(sizes.num_rows, (num,))

            def gather(gathered: Targets = gathered, rows: torch.Tensor = rows) -> None:
                gathered.gather(rows)

            yield {
                f"{placement} {num}": {
                    "ms": 1000 * pipelined(gather, times=sizes.times),
                    "waited_ms": 1000 * waited(gather, times=sizes.times),
                }
            }

"""Run the command line in processes that torchrun starts on one GPU: all use the first, and communicate by gloo."""

import os

from torch import distributed

if __name__ == "__main__":
    os.environ["LOCAL_RANK"] = "0"
    distributed.is_nccl_available = lambda: False

    from cli import main

    main()

"""The command line, for processes that torchrun starts on one GPU: all take the first, and gloo carries everything."""

import os

from torch import distributed

if __name__ == "__main__":
    os.environ["LOCAL_RANK"] = "0"
    distributed.is_nccl_available = lambda: False

    from cli import main

    main()

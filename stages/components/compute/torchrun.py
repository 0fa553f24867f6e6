"""How a stage meets the other processes that torchrun started; torch is imported when it does."""

from pipeline.peers import Peers


def join_torchrun() -> Peers:
    """Meet the other processes that torchrun started."""
    from stages.components.compute.distributed import join_ranks

    return join_ranks()

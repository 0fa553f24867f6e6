"""Train a student: the loop, its step, its saved state, and the watch over its losses.

Nothing in a step reads a number back from the device, or makes a tensor whose size depends on the content of another: a
test counts such operations, and one on a GPU lets none pass. Sums of metrics are read when a line is written; the watch
over the loss looks at a copy, a step later.

Student, running mean, optimizer and objectives (queues, centres, means) are saved as one file, ``latest``, at every
epoch, every ``--save-every-minutes``, and when Ctrl-C or SIGTERM asks the run to stop. The loop copies the state,
on a GPU to pinned memory without waiting, and a thread writes it while training goes on: first the weights that
are kept, then the state that names them. One copy exists at a time; an error of the disk ends the run within a step.
Where an epoch ends or a state is saved, all ranks go on from the first one's weights and running statistics.

On one process of a CPU a run that was killed and continued ends with the same bytes as one that was not. On a GPU it
goes on from the same state, but cuDNN's choice of algorithms and atomic additions make last bits differ, unless
``--deterministic`` rules both out.
"""

"""Decide what has to run, and run it: fingerprints, plans, the runner; files and hashes, not tensors.

Everything is made from the declarations in `stages.STAGES`: a new stage gets its command, function, table in files and
completion without further code. Under torchrun the first process plans, locks, writes and commits; the others hear from
it whether there is anything to do, do their part, and read its draft without writing (`peers`). Every command runs
inside `signals`: SIGTERM interrupts it as Ctrl-C does; a training takes either as a request, which it answers between
two steps with a saved state.
"""

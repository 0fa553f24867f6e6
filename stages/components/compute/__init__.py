"""Hold where and in which numbers work is done, and no model.

Devices and why there is none (`device`, `gpu_driver`), precision, processes that train together (`distributed`), random
numbers by key, threads beside the work (`background`), memory that processes share, a process for each of several
devices (`device_processes`), and the end of processes: with the command (`parent_process`), or because they are stopped
or hang while others wait (`stopped_processes`, `hang_watch`).

float32 is never TF32: passes that are not a training take `full_float32` for themselves, a training sets its flags in
`stages/distill/training/training_device.py` and puts them back at its end.

With torchrun every rank runs the same loop. `distributed` gathers embeddings with their targets and labels in one
exchange; a rank's own rows carry its gradient, the others' are constants, and torch averages the gradients of the
student alone. A process that ends takes the others with it.
"""

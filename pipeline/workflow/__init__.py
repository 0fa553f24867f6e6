"""Several stages together: files of stages, sweeps, and estimates of the work."""

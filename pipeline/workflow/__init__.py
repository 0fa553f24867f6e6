"""Put several stages together: files of stages, sweeps, and estimates of the work.

A file of stages becomes nodes, a step with its options settled each; combinations of a sweep that agree in them share
the node. A record keeps how long its run took, unless it was made in several, and the largest run that is like the one
to come gives the pace.
"""

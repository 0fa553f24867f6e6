"""Put several stages together: files of stages, sweeps, and estimates of the work.

A file of stages becomes nodes, each a step with its options settled; combinations of a sweep that agree in these share
a node. A record keeps how long its run took, unless several runs made it, and the largest similar run gives the pace.
"""

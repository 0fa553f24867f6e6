"""Turn a set and its embeddings into an entry of the report, by the task's name.

A metric that is a mean or a median over images keeps its parts: ``outcomes.parquet`` holds the outcome of each image
or caption, so that `compare` pairs two evaluations without running anything again, and without torch.
"""

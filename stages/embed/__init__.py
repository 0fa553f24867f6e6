"""Put a set of images through a student once, into the layout of the teacher's captions.

Row k of ``embeddings.zarr`` is distinct image k, and ``images.parquet`` says which paths have which row. Shards do not
depend on one another, because an image that cannot be read keeps its row, of zeros; batches do not cross shards, so a
resumed run has the bytes of one that was not interrupted. Which rows of a shard that stands were rejected, and why, is
found by opening the images of its rows of zeros again.
"""

"""Embed a set of images by a student once, in the same layout as the teacher's captions.

Row k of ``embeddings.zarr`` is distinct image k, and ``images.parquet`` says which paths have which row. Shards do not
depend on one another, because an unreadable image keeps its row, of zeros; batches do not cross shards, so a resumed
run writes the same bytes as an uninterrupted one. A resumed run opens the images of rows of zeros again, to find which
were rejected and why.
"""

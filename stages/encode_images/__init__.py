"""Stage one for images: each distinct image once through a frozen backbone, or vectors that another tool computed.

Row ``image_row * views + view`` of ``features.zarr`` is a view of a distinct image, and ``images.parquet`` says which
paths have which image row. Shards do not depend on one another, because an unreadable image keeps its rows, of zeros;
so processes share them (`sharing`).
"""

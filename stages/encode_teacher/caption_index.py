"""Turn the rows of a manifest into distinct captions and the pair index."""

import pyarrow as pa


def index_captions(table: pa.Table) -> tuple[pa.Array, pa.Table]:
    """Number the distinct captions in order of first appearance.

    Args:
        table: Table with row, image and caption, in manifest order, and perhaps label.

    Returns:
        The distinct captions, and the pair index: manifest_row, image, caption_row, and label if the table has it.
    """
    encoded = table["caption"].dictionary_encode()  # its chunks share one dictionary
    columns = {
        "manifest_row": table["row"],
        "image": table["image"],
        "caption_row": pa.chunked_array([chunk.indices.cast(pa.int64()) for chunk in encoded.chunks], pa.int64()),
    }
    if "label" in table.column_names:
        columns["label"] = table["label"]
    return encoded.chunk(0).dictionary, pa.table(columns)

"""From the rows of a manifest to distinct captions and the pair index."""

import pyarrow as pa


def index_captions(table: pa.Table) -> tuple[pa.Array, pa.Table]:
    """Number the distinct captions in order of first appearance.

    Args:
        table: row, image and caption, in manifest order; perhaps label.

    Returns:
        The distinct captions, and the pair index: manifest_row, image, caption_row, and label if the table has it.
    """
    encoded = table["caption"].combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    columns = {
        "manifest_row": table["row"],
        "image": table["image"],
        "caption_row": encoded.indices.cast(pa.int64()),
    }
    if "label" in table.column_names:
        columns["label"] = table["label"]
    return encoded.dictionary, pa.table(columns)

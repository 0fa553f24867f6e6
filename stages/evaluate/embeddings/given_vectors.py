"""Take vectors that another tool computed: features of a set's images, and embeddings of texts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from data_schemas.embedding_array import CAPTION_KIND
from data_schemas.errors import ProtoRKDError
from data_schemas.vector_sources.part import DIGEST_KEY
from pipeline.store.draft import Draft
from pipeline.store.file_digests import FileDigests
from pipeline.terminal import printable_line
from stages.components.embeddings.caption_embeddings import adopt_captions
from stages.components.embeddings.gathered_vectors import Wanted, gather_vectors, write_vectors
from stages.components.images.image_set import ImageSet
from stages.components.inputs.vectors import VectorSource
from stages.evaluate.embeddings.image_blocks import save_tensors


def take_image_vectors(
    source: VectorSource, images: ImageSet, *, draft: Draft, out: Path, file_digests: FileDigests
) -> dict[int, str]:
    """Write the vectors of a set's images as their features; no image is opened.

    Writes: a safetensors file with ``embeddings`` (found, feature_dim), float32, and ``rows`` (found,), int64.

    Args:
        source: Vectors, by the images' paths as the set writes them or by the SHA-256 of their files.
        images: Images of the set.
        draft: Draft whose state folder holds the vectors meanwhile.
        out: File to write.
        file_digests: Remembered digests of the images.

    Returns:
        Why images have no vector, by their place in the set.

    Raises:
        ProtoRKDError: no image has one, a number is not finite, or widths or repeated vectors differ.
    """
    numbers = range(len(images.paths))
    keys = images.digests(numbers, file_digests) if source.key == DIGEST_KEY else list(images.paths)
    distinct = pa.array(keys, pa.large_string()).dictionary_encode()
    num_rows = len(distinct.dictionary)
    wanted = Wanted(distinct.dictionary, np.arange(num_rows), num_rows, noun="image")
    gathered = gather_vectors(source, wanted, draft, dtype="float32", flag=source.flag)
    of_images = distinct.indices.fill_null(-1).to_numpy()  # (images,)
    is_found = (of_images >= 0) & gathered.rows.is_known[of_images]
    rows = np.flatnonzero(is_found)
    embeddings = torch.from_numpy(gathered.rows.values[of_images[rows]])  # (found, feature_dim)
    save_tensors({"embeddings": embeddings, "rows": torch.from_numpy(rows)}, out)
    return {number: gathered.reason(int(of_images[number])) for number in np.flatnonzero(~is_found).tolist()}


def take_caption_vectors(
    source: VectorSource, captions: pa.Array, *, draft: Draft, dtype: str, shard_rows: int
) -> dict[str, int]:
    """Write the vector of each caption as its embedding; return counts for the record.

    Raises:
        ProtoRKDError: a caption has none, a number is not finite or too large, or widths or repeated vectors differ.
    """
    adopt_captions(captions, draft)
    wanted = Wanted(captions, np.arange(len(captions)), len(captions), noun="caption")
    gathered = gather_vectors(source, wanted, draft, dtype=dtype, flag=source.flag)
    missing = np.flatnonzero(~gathered.rows.is_known).tolist()
    if missing:
        first = printable_line(repr(captions[missing[0]].as_py()))
        raise ProtoRKDError(
            f"{source.flag} must have a vector for each of the {len(captions):,} texts; {source.path} has none for "
            f"{len(missing):,}, the first {first}: {gathered.reason(missing[0])}. Embed what `protorkd prompts` writes."
        )
    write_vectors(draft, gathered, kind=CAPTION_KIND, shard_rows=shard_rows)
    return {"captions": len(captions), "unused_vectors": gathered.num_unused}

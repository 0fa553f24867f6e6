"""Open images by number, whatever they lie in; decode, crop and resize them.

No batches and no processes are here. An `ImageSet` has files, a `RecordImageSet` records of containers, a
`PackedImageSet` records of a pack, a `RemoteImageSet` objects of a bucket; `opening` finds which, and hashes them.

1. `open(number)` gives a `LazyImage`: its size is known, its pixels come at the scale that is asked for.
2. A plain upright JPEG goes through libjpeg-turbo, everything else through Pillow (`decoding`), which also judges what
   libjpeg-turbo does not take for sound: pixels and verdicts are Pillow's in any case.
3. `TrainCrop` draws a box first and asks for no more pixels than it needs; `EvalTransform` decodes the whole and
   resizes as Pillow does.
4. Crops of a raw pack may be resized by a GPU, a batch at a time (`batch_resize`): two passes of gathers, which differ
   from Pillow's by a grey level at most. What is shrunk more than fourfold is resized by the reader all the same, so
   that a batch takes 16 times the memory of its crops at most.

A packed set is small when pickled: the pack's path, and row numbers. Shards are mapped when first read, and each record
has a CRC-32C of its own: what does not fit is an error, never an image that is left out. A remote set is told which
images come next (`read_ahead`) and reads them at once; each read is compared with the hash that the fingerprint was
made of. A key that is not there is a rejection; any other failure of the store is an error.
"""

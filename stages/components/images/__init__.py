"""Sets of images, whatever they lie in, and how one is decoded, cropped and resized.

No batches and no processes here.
"""

"""Images with captions, in the formats that people have: COCO, Karpathy's splits, Flickr8k, Flickr30k, manifests."""

from stages.evaluate.sets.caption_sets.caption_set import CaptionSet, read_caption_set, split_argument

__all__ = ["CaptionSet", "read_caption_set", "split_argument"]

"""Put a student and its teacher into one model, for people who do not have this project.

`modeling_protorkd.py` goes with the model, so it imports nothing of ours and says again, in few lines, how images are
prepared and backbones built; tests hold it to `stages/` image by image and backbone by backbone. What it adds to
sentence-transformers is a router that goes by type, because the library's own opens captions that look like addresses.
The teacher's files are copied, never saved anew; what has no files yet (word vectors) is written in one order. What the
card says is gathered by `identify` and hashed as an input of its own, ``lineage``, so the same request gives the same
bytes. Copies and uploads happen each time that an export is asked for (`delivery`), and nothing of them is hashed.
"""

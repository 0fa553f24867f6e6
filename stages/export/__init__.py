"""Combine a student and its teacher into one model, for people who do not have this project.

`modeling_protorkd.py` and `networks_protorkd.py` are part of the model, so they import nothing of ours and repeat, in
few lines, how images are prepared and networks built; tests compare them with `stages/` image by image and backbone by
backbone. To sentence-transformers they add a router by type, because the library's own opens captions that look like
addresses. The teacher's files are copied, never saved anew; modules without files (word vectors) are written in one
order. The
facts on the card are gathered by `identify` and hashed as an input of their own, ``lineage``, so the same request
gives the same bytes. Copies and uploads (`delivery`) happen each time that an export is asked for, and are not hashed.
"""

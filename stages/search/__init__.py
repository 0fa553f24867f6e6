"""Search among embedded images or captions: on the command line, on a page, and by a local server.

An artifact of `embed` or `encode-teacher` is read through `stages/components/embeddings/searchable.py`: rows of unit
length, checked against their record as they are read. `search` runs `index` to get a faiss index of them. `Queries`
embeds words by the teacher and images by the student that belong to the set, and refuses others. The page and the
server share one template and one script; their policy names both by hash. The page compares 8-bit embeddings in the
browser; the server asks the same `Search` as the command line.
"""

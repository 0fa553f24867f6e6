"""Before training: does this text model fit these images and this backbone? Figures, images, and what to do next.

1. `stage.py` identifies the cached captions and, where they are named, features, prototypes, queries and the teacher.
2. `run.py` has `measures/` look at captions, at features, and at both together, on samples of bounded size.
3. `advice.py` says in words what the figures mean; `page/` draws them, with images of the extremes.
"""

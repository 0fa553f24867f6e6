"""Embed what tasks ask for, as artifacts: images once a student, captions once a teacher.

Processes under torchrun share the passes over images alone: each embeds a part of a set into the draft's state folder,
block by block with a checksum each, from which a killed pass goes on; the first joins the blocks. What fails in one of
them fails in all, at points where all meet, so none waits for one that has given up.
"""

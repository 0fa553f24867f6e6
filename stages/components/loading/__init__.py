"""Images read by processes of their own, in batches ahead of their use.

What is read is `images`, what becomes of it is the caller's.
"""

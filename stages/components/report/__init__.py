"""Draw HTML pages that load nothing: thumbnails, escaping, even samples.

Each stage's own page lies beside the stage.
"""

"""HTML pages that load nothing: thumbnails, escaping, even samples; each stage's own page lies beside the stage."""

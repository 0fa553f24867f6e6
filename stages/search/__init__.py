"""Search among embedded images or captions: on the command line, on a page, and by a local server."""

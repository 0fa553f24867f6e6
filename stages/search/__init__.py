"""Search among embedded pictures or captions: on the command line, on a page, and by a local server."""

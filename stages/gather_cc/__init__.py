"""gather-cc: captions and addresses of pictures become a folder of pictures and its manifest."""

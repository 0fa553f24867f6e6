"""gather-cc: captions and addresses of images become a folder of images and its manifest."""

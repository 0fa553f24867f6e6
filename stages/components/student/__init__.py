"""Build the image student: backbones and weights of any origin, the head, its work on images."""

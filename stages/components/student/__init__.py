"""The image student: backbones and weights of any origin, the projection head, and the student at work on images."""

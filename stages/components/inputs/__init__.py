"""Options that name pairs or images, shared by stages, and the checks of the paths that they name."""

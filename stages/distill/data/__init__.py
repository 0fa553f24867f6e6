"""What a step is fed with: examples in their order, crops and augmentation, and the cached targets."""

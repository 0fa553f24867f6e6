"""Hold the parts that several objectives share; none is an objective itself.

Gradients are written down where torch's own would keep and copy tensors of scores (`soft_cross_entropy`): one
exponential makes the shares of a softmax, and these become the gradient in place.
"""

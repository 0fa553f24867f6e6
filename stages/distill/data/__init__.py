"""Feed a step: examples in their order, crops and augmentation or cached features, and the cached targets.

The order of examples is a function of seed and epoch; a crop and an augmentation are functions of seed, epoch and
image: nothing depends on the number of workers, and no random state has to be saved.

Images for training on a GPU lie in shared memory that is used again once it has been copied into pinned
memory (`buffer_pool`), because allocating fresh pages takes longer than filling them. Augmentation draws its parameters
on the CPU and changes pixels together, and no operation adds up over images, so an image's neighbours change nothing. A
mapped table of targets is one file in the draft's state, which all ranks map.

In a training on features no image is read: `feature_images` finds the row of each pair, `example_features` gathers rows
of a second table of the same class, in the training's own process, and `feature_noise` stands where augmentation does.
"""

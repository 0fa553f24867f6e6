"""Backbones: families of networks that turn images into features, with their weights and their preprocessing.

1. `registry.find_family` tells by a name's prefix which family it belongs to (`family.BackboneFamily`).
2. The family finds the files on this machine or fetches them (`find_weights`, `find_description`; `hub_files` for the
   hub); `frozen.identify_weights` hashes them. Until here nothing imports torch.
3. `registry.build_backbone` builds the network without its classifier, and says how its images are prepared.
4. `initial_weights` fills it, from what the family publishes or from a file of any layout (`foreign_checkpoints`).
5. A student puts a head behind it; `frozen.make_backbone` keeps it as an artifact, which loads without any hub.

`module_family` is for networks that Python code hands over (`protorkd.Backbone`): their weights are kept likewise,
their code is not, so each process that puts images through one must be given it.
"""

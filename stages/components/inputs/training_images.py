"""Find the images that a student was distilled from, where they are still what they were."""

from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.images.embedded_images import read_images
from data_schemas.pair_index import read_pairs, read_rejected
from pipeline.fingerprint import hash_json
from pipeline.remote.object_store import url_of
from pipeline.stage import Context, Input
from pipeline.store.store import Artifact
from stages.components.images.image_set import CONTENT, ImageSet
from stages.components.images.opening import identify_images
from stages.components.images.packed_image_set import PACK, find_pack, take_packed


@dataclass(frozen=True)
class AbsentImages(Input[str]):
    """Training images that are no longer available; the value says why."""


def find_training_images(artifact: Artifact, context: Context) -> Input[ImageSet] | AbsentImages:
    """Identify the images that a student was distilled from, where they are still available, and still the same.

    Args:
        artifact: Artifact of distill.
        context: Store with its inputs, and remembered digests.
    """
    features, images = None, artifact.record.inputs.get("images")
    if images is None:
        features = find_made("encode-images", artifact.record.inputs["features"].digest, context)
        images = None if features is None else features.record.inputs.get("images")
    if images is None:
        missing = f"{context.store} does not say which images their features are of"
        return AbsentImages(digest=hash_json("absent"), location="", value=missing)
    root = Path(images.location)
    embeddings = find_made("encode-teacher", artifact.record.inputs["embeddings"].digest, context)
    try:
        pack = find_pack(images.parts.get(PACK, images.digest), images.location, context.store)
        if pack is None and not (root.is_dir() or url_of(root)):
            missing = f"{root} is gone"
        elif embeddings is None:
            missing = f"{context.store} no longer has their list"
        else:
            paths = read_pairs(context.store.fetch(embeddings).path)["image"]
            if pack is not None:
                manifest = embeddings.record.inputs["manifest"].location
                return take_packed(pack, paths.combine_chunks(), manifest=manifest)
            names = paths.to_pylist() if features is None else _listed(context.store.fetch(features))
            request = (features or artifact).record.request
            identity = str(request.inputs.get("image_identity", CONTENT)) if request else CONTENT
            found = identify_images(root, names, identity=identity, file_digests=context.file_digests)
            if found.digest == images.digest:
                return found
            changed = f"images below {root} are no longer those that {artifact.name} was trained on"
            return AbsentImages(digest=hash_json("changed"), location=images.location, value=changed)
    except ProtoRKDError as error:  # the list or the pack is damaged
        missing = str(error)
    return AbsentImages(digest=hash_json("absent"), location=images.location, value=missing)


def find_made(stage: str, digest: str, context: Context) -> Artifact | None:
    """Find the artifact of a stage by its digest, without bringing its files here; None where the store has none."""
    return next((each for each in context.store.artifacts(stage) if each.record.digest == digest), None)


def _listed(features: Artifact) -> list[str]:
    """List the images that were put through a backbone, in their order, with those that could not be read."""
    rejected = {rejection.row: rejection.value for rejection in read_rejected(features.path)}
    read = iter(read_images(features.path)["image"].to_pylist())
    total = features.record.counts["images"] + len(rejected)
    return [rejected[number] if number in rejected else next(read) for number in range(total)]

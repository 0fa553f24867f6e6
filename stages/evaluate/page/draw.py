"""Draw the page of an evaluation from the embeddings of the checkpoint that is shown in full."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_index import read_captions
from data_schemas.prototypes import Prototypes
from pipeline.log import log
from pipeline.stage import Context, Input
from stages.components.images.image_set import ImageSet
from stages.components.inputs.training_images import AbsentImages
from stages.evaluate.embeddings.checkpoint_embeddings import CheckpointEmbeddings
from stages.evaluate.metrics.zero_shot import class_embeddings, class_scores
from stages.evaluate.overlap.near_duplicates import OverlapPair
from stages.evaluate.page.galleries import class_gallery, overlap_examples, prototype_sheets, retrieval_gallery
from stages.evaluate.page.gallery import ContactSheet, Gallery, OverlapExample
from stages.evaluate.page.render import render_page
from stages.evaluate.sets.evaluation_sets import ClassSet, RequestedSet, RetrievalSet
from stages.evaluate.sets.prompts import fill
from stages.evaluate.sources import Checkpoints


def draw_page(
    report: Mapping[str, Any],
    entries: Sequence[RequestedSet],
    *,
    checkpoints: Checkpoints,
    embeddings: CheckpointEmbeddings,
    query_prompt: Input[str] | None,
    training: Input[ImageSet] | AbsentImages | None,
    map_method: str,
    seed: int,
    context: Context,
) -> str:
    """Write the page: figures from the report, images from the sets that were measured.

    Args:
        report: Report of the evaluation.
        entries: Sets of the evaluation; one of which no task was done is not shown.
        checkpoints: Checkpoints of the student.
        embeddings: Embeddings by the checkpoint that is shown.
        query_prompt: What is put before captions that look for their image; None for what all captions have.
        training: Training images, or why they are unavailable; None where nobody asked for the overlap.
        map_method: Layout of the maps: ``pca`` or ``tsne``.
        seed: Seed of the samples and clusters.
        context: Store that the prototypes are looked for in.
    """
    done = {(entry["name"], entry["task"]) for entry in report["sets"]}
    galleries: list[Gallery] = []
    sheets: dict[str, Sequence[ContactSheet]] = {}
    for entry in entries:
        evaluation_set = entry.evaluation_set
        is_measured = any((evaluation_set.name, task) in done for task in entry.tasks)
        try:
            if isinstance(evaluation_set, RetrievalSet) and is_measured:
                images, captions = embeddings.images(evaluation_set.images), evaluation_set.captions
                queries = None if query_prompt is None else embeddings.captions(captions, prompt=query_prompt.value)
                gallery = retrieval_gallery(
                    evaluation_set,
                    images,
                    embeddings.captions(captions),
                    queries=queries,
                    map_method=map_method,
                    seed=seed,
                )
                galleries.append(gallery)
                if not sheets:
                    sheets = dict(_sheets(evaluation_set, embeddings, checkpoints, context))
            elif isinstance(evaluation_set, ClassSet) and evaluation_set.test and is_measured:
                test = embeddings.images(evaluation_set.test.images)
                is_scored = (evaluation_set.name, "zero_shot") in done
                scores = _scores(entry, evaluation_set, embeddings) if is_scored else None
                galleries.append(class_gallery(evaluation_set, test, scores, map_method=map_method, seed=seed))
        except ProtoRKDError as error:
            log.info("evaluate: %s is not shown in images: %s", evaluation_set.name, error)
    return render_page(report, galleries, sheets=sheets, overlaps=dict(_overlaps(report, entries, training)))


def _scores(entry: RequestedSet, class_set: ClassSet, embeddings: CheckpointEmbeddings) -> Tensor:
    """Compute the scores of zero-shot classification again: (readable, classes)."""
    assert class_set.test is not None
    names, templates = class_set.class_names, entry.templates
    prompts = embeddings.captions(tuple(fill(template, name) for name in names for template in templates))
    classes = class_embeddings(prompts.reshape(len(names), len(templates), -1))
    return class_scores(image_embeddings=embeddings.images(class_set.test.images).embeddings, class_embeddings=classes)


def _sheets(
    retrieval_set: RetrievalSet, embeddings: CheckpointEmbeddings, checkpoints: Checkpoints, context: Context
) -> Iterator[tuple[str, tuple[ContactSheet, ...]]]:
    """Yield contact sheets of the prototypes that the student was trained with, where the store still has them."""
    record = checkpoints.artifact.record
    used = {*record.uses, *(entry.digest for entry in record.inputs.values())}
    for artifact in context.store.artifacts("prototypes"):
        if artifact.record.digest not in used:
            continue
        made_from = artifact.record.inputs["embeddings"].digest
        for encoded in context.store.artifacts("encode-teacher"):
            if encoded.record.digest == made_from:
                for read in (encoded, artifact):
                    context.use(read.record.digest)
                captions = read_captions(context.store.fetch(encoded).path)
                prototypes = Prototypes.read(context.store.fetch(artifact).path)
                images = embeddings.images(retrieval_set.images)
                yield retrieval_set.name, prototype_sheets(prototypes, captions, retrieval_set, images)
                return


def _overlaps(
    report: Mapping[str, Any], entries: Sequence[RequestedSet], training: Input[ImageSet] | AbsentImages | None
) -> Iterator[tuple[str, tuple[OverlapExample, ...]]]:
    sets = dict(_images(entries))
    for overlap in report["overlap"]:
        pairs = [OverlapPair(**pair) for pair in overlap["pairs"]]
        if pairs and training is not None and not isinstance(training, AbsentImages):
            yield overlap["name"], overlap_examples(pairs, sets[overlap["name"]], training.value)


def _images(entries: Sequence[RequestedSet]) -> Iterator[tuple[str, ImageSet]]:
    for entry in entries:
        match entry.evaluation_set:
            case RetrievalSet(name=name, images=images):
                yield name, images.value
            case ClassSet(name=name, test=test) if test is not None:
                yield name, test.images.value

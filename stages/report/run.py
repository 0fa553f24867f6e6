"""Run the report stage: captions, features, both together, queries; what to do next; report and page."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data_schemas.artifact_record import PAGE_NAME
from data_schemas.files import write_atomic, write_json
from data_schemas.images.image_features import FeaturesConfig
from data_schemas.neighbours import Neighbours
from data_schemas.prototypes import ASSIGNMENT_NAME, CENTROIDS_NAME, Prototypes
from pipeline.log import log
from pipeline.stage import Context, Result
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.compute.device import choose_device
from stages.components.embeddings.neighbours.stage import make_neighbours
from stages.components.metrics.embedding_space import draw_rows
from stages.components.teacher.recorded import name_of_location
from stages.report.advice import give_advice
from stages.report.corpus import CaptionCorpus, ImageCorpus, Standardisation
from stages.report.examples import differing_captions, differing_images, extreme_pairs
from stages.report.images import make_thumbnails
from stages.report.measures import captions as caption_measures
from stages.report.measures import images as image_measures
from stages.report.measures.alignment import compare_spaces, measure_baseline
from stages.report.page.render import render_page, shown_pairs
from stages.report.queries import measure_coverage

if TYPE_CHECKING:
    from stages.report.options import ReportParams, ReportRuntime, ReportSources

REPORT_NAME = "report.json"
SCHEMA_VERSION = 1
_GRAPH_NEIGHBOURS = 32


def make_report(
    params: "ReportParams", sources: "ReportSources", draft: Draft, runtime: "ReportRuntime", context: Context
) -> Result:
    """Measure captions and features, and write the report and its page.

    Raises:
        ProtoRKDError: an input is damaged, the features are of other images, or the teacher cannot embed the queries.
    """
    device = choose_device(runtime.device)
    embeddings = sources.embeddings.value
    corpus = CaptionCorpus.read(embeddings)
    images = None
    if sources.features is not None:
        images = ImageCorpus.read(sources.features.value, embeddings, corpus, max_bad_fraction=runtime.max_bad_fraction)
    graph = _neighbours(params, corpus, embeddings, device=runtime.device, context=context)
    report = _measure(params, sources, corpus, images, graph, device=device)
    write_json(draft.path / REPORT_NAME, report)
    thumbnails: dict[int, str] = {}
    if images is not None and sources.images is not None:
        thumbnails = make_thumbnails(shown_pairs(report), images, sources.images.value, context=context)
    write_atomic(draft.path / PAGE_NAME, render_page(report, thumbnails).encode())
    return Result(
        counts=_counts(report),
        metrics=_metrics(report),
        uses=() if graph is None else (graph.record.digest,),
        environment={"device": device.type},
    )


def _measure(
    params: "ReportParams",
    sources: "ReportSources",
    corpus: CaptionCorpus,
    images: ImageCorpus | None,
    graph: Artifact | None,
    *,
    device: torch.device,
) -> dict[str, Any]:
    """Put the report together, as it is written to JSON: equal inputs give equal reports."""
    near = None
    if graph is not None:
        near = caption_measures.count_near_duplicates(Neighbours.read(graph.path), cosine=params.near_duplicate_cosine)
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "inputs": _digests(sources),
        "models": _models(sources),
        "settings": {**asdict(params), "image_cosine": image_measures.NEAR_DUPLICATE},
        "captions": _describe_captions(params, corpus, sources, near, device=device),
    }
    if images is not None:
        report |= _describe_images(params, corpus, images, near, device=device)
    if sources.queries is not None and sources.teacher is not None:
        report["coverage"] = measure_coverage(
            sources.queries.value,
            corpus,
            teacher=sources.teacher,
            embeddings=sources.embeddings.value,
            cosine=params.coverage_cosine,
            device=device,
        )
    report["advice"] = give_advice(report)
    return report


def _neighbours(
    params: "ReportParams", corpus: CaptionCorpus, embeddings: Artifact, *, device: str, context: Context
) -> Artifact | None:
    """Make the graph of the captions' neighbours, unless it is too large to be made for a report."""
    if len(corpus.numbers) > params.graph_captions:
        return None
    unforced = replace(context, force=False)  # the graph is no part of the report that is made anew
    return make_neighbours(embeddings, num_neighbours=_GRAPH_NEIGHBOURS, device=device, context=unforced)


def _describe_captions(
    params: "ReportParams",
    corpus: CaptionCorpus,
    sources: "ReportSources",
    near: Mapping[str, Any] | None,
    *,
    device: torch.device,
) -> dict[str, Any]:
    nearness = caption_measures.measure_nearness(
        corpus,
        near_duplicate_cosine=params.near_duplicate_cosine,
        levels=caption_measures.levels_with(params.false_negative_cosine),
        sample_size=params.sample_size,
        seed=params.seed,
        device=device,
    )
    estimate = nearness.pop("near_duplicates")
    share = estimate if near is None else near["num"] / len(corpus.numbers)
    described = {
        **caption_measures.count_captions(corpus, sources.embeddings.value.record.counts),
        "lengths": caption_measures.measure_lengths(corpus.texts),
        "space": caption_measures.measure_space(corpus, seed=params.seed),
        "nearness": nearness,
        "near_duplicates": {"share": share, "is_estimate": near is None},
        "near_duplicate_examples": [] if near is None else caption_measures.name_pairs(near, corpus),
    }
    if sources.prototypes is not None:
        prototypes = sources.prototypes.value
        prototypes.require_whole((CENTROIDS_NAME, ASSIGNMENT_NAME), read=True)
        described["balance"] = caption_measures.measure_balance(Prototypes.read(prototypes.path))
    return described


def _describe_images(
    params: "ReportParams",
    corpus: CaptionCorpus,
    images: ImageCorpus,
    near_captions: Mapping[str, Any] | None,
    *,
    device: torch.device,
) -> dict[str, Any]:
    """Measure features, and both together, on a sample of images with a pair each."""
    start = time.monotonic()
    fitted = draw_rows(len(images.pairs), limit=params.ridge_pairs, seed=params.seed).numpy()
    features = images.take(fitted)
    standardise = Standardisation.over(features)
    features = standardise(features)
    captions = corpus.vectors[torch.from_numpy(images.captions[fitted])]
    baseline = measure_baseline(features, captions, seed=params.seed)
    log.info("report: a ridge regression on %d pairs took %.1f s", len(fitted), time.monotonic() - start)
    sample = draw_rows(len(fitted), limit=params.sample_size, seed=params.seed)
    unit = torch.nn.functional.normalize(features[sample], dim=1)
    near = image_measures.find_near(images, fitted[sample.numpy()], standardise, device=device)
    return {
        "images": {
            **image_measures.count_images(images),
            "space": {
                "dim": images.dim,
                "num_constant": int((standardise.std == 0).sum()),
                "effective_rank": baseline.measures.pop("effective_rank"),
            },
            "near_duplicates": float(np.mean(near.cosines >= image_measures.NEAR_DUPLICATE)),
            "num_sampled": len(sample),
        },
        "together": compare_spaces(unit, captions[sample], num_neighbours=params.num_neighbours),
        "baseline": baseline.measures,
        "examples": {
            **extreme_pairs(baseline.cosines, fitted, images, corpus),
            "differing_images": []
            if near_captions is None
            else differing_images(near_captions, images, corpus, standardise),
            "differing_captions": differing_captions(near, images, corpus, cosine=image_measures.NEAR_DUPLICATE),
        },
    }


def _digests(sources: "ReportSources") -> dict[str, str]:
    named = {"embeddings": sources.embeddings, "features": sources.features, "prototypes": sources.prototypes}
    return {name: entry.digest for name, entry in named.items() if entry is not None}


def _models(sources: "ReportSources") -> dict[str, str]:
    """Name the text model and the backbone, "" where another tool computed the features."""
    models = {"teacher": name_of_location(sources.embeddings.value.record.inputs["teacher"].location)}
    if sources.features is not None:
        backbone = FeaturesConfig.read(sources.features.value.path).backbone
        models["backbone"] = "" if backbone is None else backbone.name
    return models


def _counts(report: Mapping[str, Any]) -> dict[str, Any]:
    captions, images = report["captions"], report.get("images")
    counts = {"pairs": captions["num_pairs"], "captions": captions["num_captions"]}
    counts |= {"zero_captions": captions["num_zero"]}
    if images is not None:
        counts |= {"distinct_images": images["num_distinct"], "pairs_without_features": images["pairs_without"]}
    return counts | {"advice": {entry["title"]: entry["kind"] for entry in report["advice"]}}


def _metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the headline figures, for the record."""
    captions = report["captions"]
    metrics = {
        "captions/effective_rank": captions["space"]["effective_rank"],
        "captions/near_duplicates": 100 * captions["near_duplicates"]["share"],
    }
    if "images" in report:
        together = report["together"]
        metrics["images/effective_rank"] = report["images"]["space"]["effective_rank"]
        metrics |= {f"together/{name}": together[name] for name in ("mutual_knn", "cka") if name in together}
        metrics["ridge/mean_recall"] = report["baseline"]["metrics"]["mean_recall"]
    return metrics

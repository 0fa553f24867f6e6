"""Small sets with real images, and a report with everything that a report can hold, for tests of the page."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageDraw

from data_schemas.prototypes import Prototypes
from pipeline.stage import Input
from stages.components.images.image_set import ImageSet
from stages.evaluate.embeddings.cached_embeddings import ImageEmbeddings
from stages.evaluate.overlap.near_duplicates import OverlapPair
from stages.evaluate.page.galleries import class_gallery, overlap_examples, prototype_sheets, retrieval_gallery
from stages.evaluate.page.gallery import ContactSheet, Gallery, OverlapExample
from stages.evaluate.sets.evaluation_sets import ClassSet, LabelledSet, RetrievalSet
from stages.evaluate.sets.image_folder import ImageFolder

COLOURS = ("crimson", "seagreen", "royalblue", "goldenrod")
DIM = 8


def draw_images(root: Path, num: int) -> list[str]:
    """Draw discs, of four colours in turn; no two images are the same."""
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.png" for number in range(num)]
    for number, name in enumerate(names):
        image = Image.new("RGB", (48, 40 + number % 9), (235, 232, 225))
        at = 4 + number // len(COLOURS) % 12
        ImageDraw.Draw(image).ellipse((at, at, at + 24, at + 24), fill=COLOURS[number % len(COLOURS)])
        image.save(root / name)
    return names


def embed(rows: torch.Tensor, *, readable: list[int] | None = None) -> ImageEmbeddings:
    """Stand in for a student's embeddings of all or some images of a set."""
    kept = torch.arange(len(rows)) if readable is None else torch.tensor(readable)
    return ImageEmbeddings(
        embeddings=rows[kept], features=rows[kept], rows=kept, rejections=(), digest="0" * 64, precision="fp32"
    )


def colour_rows(num: int, *, noise: float = 0.3, seed: int = 0) -> torch.Tensor:
    """Make embeddings in which images of one colour lie together: (num, DIM)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(DIM)[torch.arange(num) % len(COLOURS)] + noise * torch.randn(num, DIM, generator=generator)


def some_retrieval_set(root: Path, *, num: int = 24) -> RetrievalSet:
    """Make images with two captions each, one after the other."""
    images = ImageSet(root=root, paths=draw_images(root, num))
    captions = tuple(f"{word} {COLOURS[image % 4]} disc {image}" for image in range(num) for word in ("a", "the"))
    return RetrievalSet(
        name="test",
        images=Input("1" * 64, str(root), value=images),
        captions=captions,
        caption_image=tuple(image for image in range(num) for _ in range(2)),
        rejections=(),
    )


def some_class_set(root: Path, *, num: int = 40) -> ClassSet:
    """Make images whose classes are the four colours in turn."""
    paths = draw_images(root, num)
    labels = tuple(number % len(COLOURS) for number in range(num))
    folder = ImageFolder(name="discs", root=root, classes=COLOURS, images=tuple(paths), labels=labels)
    images = Input("2" * 64, str(root), value=ImageSet(root=root, paths=paths))
    return ClassSet(name="discs", class_names=COLOURS, test=LabelledSet(folder=folder, images=images))


def some_scores(num: int = 40) -> torch.Tensor:
    """Score classes such that seagreen is always taken for crimson, and goldenrod half of the time for royalblue."""
    scores = torch.eye(len(COLOURS))[torch.arange(num) % len(COLOURS)]
    scores[1::4] = torch.eye(len(COLOURS))[0]
    scores[3::8] = torch.eye(len(COLOURS))[2]
    return scores


def some_prototypes(num: int = 40) -> tuple[Prototypes, pa.Array]:
    """Make four prototypes, one per colour, and their captions; the first has the most."""
    assignment = np.array([number % 4 if number % 3 else 0 for number in range(num)], np.int32)
    prototypes = Prototypes(
        centroids=np.eye(DIM, dtype=np.float32)[:4],
        assignment=assignment,
        cosines=np.linspace(0.4, 0.9, num, dtype=np.float32),
    )
    return prototypes, pa.array([f"caption {number}" for number in range(num)], pa.large_string())


def some_exhibits(
    root: Path, *, map_method: str = "pca"
) -> tuple[list[Gallery], dict[str, tuple[ContactSheet, ...]], dict[str, tuple[OverlapExample, ...]]]:
    """Make all that a page can show: galleries of two sets, contact sheets and copies, with images below the folder."""
    pairs, classes = some_retrieval_set(root / "pairs"), some_class_set(root / "discs")
    captions = colour_rows(24, noise=0.25, seed=1).repeat_interleave(2, dim=0)
    images, test = embed(colour_rows(24)), embed(colour_rows(40, seed=2))
    prototypes, texts = some_prototypes()
    seen = [pairs.images.value, ImageSet(root=root / "discs", paths=draw_images(root / "discs", 40))]
    copies = [OverlapPair("0.png", "4.png", exact=True, distance=0), OverlapPair("1.png", "5.png", False, 3)]
    galleries = [
        retrieval_gallery(pairs, images, captions, map_method=map_method, seed=0),
        class_gallery(classes, test, some_scores(), map_method=map_method, seed=0),
    ]
    sheets = {"test": prototype_sheets(prototypes, texts, pairs, images)}
    return galleries, sheets, {"test": overlap_examples(copies, *seen)}


def interval(value: float, num: int, half: float = 1.5) -> dict[str, Any]:
    """Make an interval around a value."""
    return {"low": value - half, "high": value + half, "num_pictures": num}


def some_entry(name: str, task: str, metrics: dict[str, float], **more: Any) -> dict[str, Any]:
    """Make a report's entry of a set and a task, every figure with an interval."""
    num = more.get("num_images", 0)
    intervals = {measure: interval(value, num) for measure, value in metrics.items()}
    return {
        "name": name,
        "task": task,
        "rejected": 0,
        "first_rejected": "",
        "metrics": metrics,
        "intervals": intervals,
        "chance": {},
        **more,
    }


def full_report() -> dict[str, Any]:
    """Make a report with every section of the page."""
    recalls = {f"{way}/recall@{k}": 8.0 + 4 * k for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)}
    recalls |= {"mean_recall": 29.3, "text_to_image/median_rank": 12.0, "image_to_text/median_rank": 9.5}
    sides = {
        f"{measure}/{side}": value
        for measure, value in (
            ("self_similarity", 0.12),
            ("uniformity", -3.1),
            ("feature_std", 0.043),
            ("effective_rank", 211.0),
        )
        for side in ("images", "captions")
    }
    shapes = {
        f"{measure}/{side}": value
        for measure, value in (("silhouette", 0.04), ("calinski_harabasz", 312.5), ("davies_bouldin", 3.2))
        for side in ("classes", "clusters")
    }
    classes: dict[str, Any] = {"num_images": 40, "num_classes": 4, "headline": "mean_per_class"}
    top = {"top1": 62.5, "mean_per_class": 62.5}
    chance = {"top1": 25.0, "mean_per_class": 25.0}
    sets = [
        some_entry(
            "test",
            "retrieval",
            recalls,
            num_images=24,
            num_captions=48,
            rejected=3,
            chance={"mean_recall": 22.2, "text_to_image/recall@1": 4.17},
        ),
        some_entry("discs", "zero_shot", top, templates=["{}", "a {}"], chance=chance, **classes),
        some_entry("discs", "knn", top, k=20, temperature=0.07, num_train_images=80, chance=chance, **classes),
        some_entry("discs", "knn_backbone", top, k=20, temperature=0.07, chance=chance, **classes),
        some_entry("discs", "linear_probe", top, l2_weight=0.001, converged=True, chance=chance, **classes),
        some_entry("discs", "linear_probe_backbone", top, l2_weight=0.1, converged=False, chance=chance, **classes),
        some_entry("test", "geometry", {"modality_gap": 0.81, "alignment": 1.2, **sides}, num_images=24),
        some_entry(
            "test",
            "neighbourhoods",
            {"neighbour_overlap@10": 43.0, "similarity_spearman": 0.31, "cka": -0.02},
            num_images=24,
            chance={"neighbour_overlap@10": 10.0, "similarity_spearman": 0.0, "cka": 0.0},
        ),
        some_entry("discs", "clustering", {"ari": 0.61, "ami": 0.66, **shapes}, **classes),
        some_entry("stsb", "sts", {"spearman": 0.74, "pearson": 0.75}, num_pairs=1379),
    ]
    metrics = {
        f"{entry['name']}{'' if entry['task'] == 'retrieval' else '/' + entry['task']}/{measure}": value
        for entry in sets
        for measure, value in entry["metrics"].items()
    }
    return {
        "schema_version": 2,
        "student": {
            "fingerprint": "0123456789abcdef" * 4,
            "backbone": "resnet18",
            "image_size": 64,
            "embedding_dim": 384,
            "losses": ["infonce=1", "proto-rkd=0.5"],
            "checkpoint": "last",
        },
        "teacher": {"name": "all-MiniLM-L6-v2", "identity": "fedcba9876543210" * 4},
        "sets": sets,
        "metrics": metrics,
        "checkpoints": [
            {
                "name": f"epoch_{epoch}",
                "epoch": epoch,
                "metrics": {
                    name: value * (0.7 + 0.1 * epoch) - 3 * (5 - epoch) * ("probe" in name)
                    for name, value in metrics.items()
                },
            }
            for epoch in (1, 2, 4)
        ],
        "failures": [
            {"name": "pets", "task": "linear_probe", "checkpoint": "epoch_2", "reason": "A set must have images."}
        ],
        "absent": [{"name": "food101", "places": ["/data/food-101", "/data/food101"], "reason": "No such folder."}],
        "overlap": [
            {
                "name": "test",
                "num_evaluation": 24,
                "num_training": 40,
                "num_exact": 1,
                "num_near": 1,
                "num_featureless": 0,
                "pairs": [{"evaluation": "0.png", "training": "4.png", "exact": True, "distance": 0}],
            }
        ],
    }

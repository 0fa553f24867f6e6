"""Classify by nearest neighbours: do images of one class lie together, whatever the class is called?"""

import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.components.compute.faiss_library import MAX_GPU_NEIGHBOURS, find_faiss, has_gpu, import_faiss, to_gpu
from stages.components.metrics.ranking import check_labels
from stages.components.metrics.unit_rows import STUDENT_REMEDY, exact_scores, unit_rows

# Similarities held at once by the torch search: 256 MiB of float32.
_MAX_SCORES = 2**26


@exact_scores()
def knn_votes(
    *,
    train_embeddings: Tensor,
    train_labels: Tensor,
    test_embeddings: Tensor,
    num_classes: int,
    k: int,
    temperature: float,
    device: torch.device,
) -> Tensor:
    """Let the k nearest training images of each test image vote for their classes, weighted by exp(cosine / T).

    Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, 2018, arXiv:1805.01978, where
    k is 200 and the temperature T is 0.07. A class without a neighbour gets no vote. The search is exact: by faiss
    where it imports, by torch otherwise, also where faiss cannot find so many neighbours on a GPU.

    Args:
        train_embeddings: One row per training image.
        train_labels: Class of each training image.
        test_embeddings: One row per test image.
        num_classes: Number of classes, also of those without a training image.
        k: Number of neighbours that vote.
        temperature: Divisor of the cosines; the lower, the more the nearest neighbours decide.
        device: Device that the search runs on.

    Raises:
        ProtoRKDError: there are fewer than k training images, or an embedding is NaN or infinite.
        ValueError: the labels do not fit the embeddings.

    Shapes:
        train_embeddings: (train, dim), float, any scale; train_labels: (train,), int64.
        test_embeddings: (test, dim), float, any scale.
        returns: (test, classes), float64, from 0, on the CPU; relative to the vote of the nearest neighbour.
    """
    if not 1 <= k <= len(train_embeddings):
        raise ProtoRKDError(
            f"--knn-k must be from 1 to the number of training images, {len(train_embeddings)}; got {k}. "
            "Choose fewer neighbours or give more training images."
        )
    train = unit_rows(train_embeddings, name="Training image embeddings", remedy=STUDENT_REMEDY)
    test = unit_rows(test_embeddings, name="Test image embeddings", remedy=STUDENT_REMEDY)
    check_labels(train_labels, num_rows=len(train), num_classes=num_classes)
    find = neighbours_by_faiss if _suits_faiss(k, device) else neighbours_by_torch
    similarities, neighbours = find(train=train, test=test, k=k, device=device)
    # Relative to the nearest neighbour: a low temperature would overflow.
    weights = ((similarities - similarities[:, :1]).double() / temperature).exp()
    votes = torch.zeros(len(test), num_classes, dtype=torch.float64)
    return votes.scatter_add_(1, train_labels.cpu()[neighbours], weights)


def _suits_faiss(k: int, device: torch.device) -> bool:
    faiss = find_faiss()
    if faiss is None or device.type != "cuda":
        return faiss is not None
    return has_gpu(faiss, device) and k <= MAX_GPU_NEIGHBOURS


def neighbours_by_faiss(*, train: Tensor, test: Tensor, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Find the k training rows with the largest inner product, by faiss, on the device if faiss supports it.

    Raises:
        ImportError: faiss is not installed, or not whole.

    Shapes:
        train: (train, dim), float32; test: (test, dim), float32.
        returns: similarities (test, k), float32, and rows of train (test, k), int64; best first, on the CPU.
    """
    faiss = import_faiss()
    index = faiss.IndexFlatIP(train.shape[1])
    if has_gpu(faiss, device):
        index = to_gpu(faiss, index, device)
    index.add(train.cpu().numpy())
    similarities, neighbours = index.search(test.cpu().numpy(), k)
    return torch.from_numpy(similarities), torch.from_numpy(neighbours)


def neighbours_by_torch(*, train: Tensor, test: Tensor, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Find the k training rows with the largest inner product, by blocks of test rows, on the device.

    Shapes:
        train: (train, dim), float32; test: (test, dim), float32.
        returns: similarities (test, k), float32, and rows of train (test, k), int64; best first, on the CPU.
    """
    train, test = train.to(device), test.to(device)
    block = max(1, _MAX_SCORES // len(train))
    best = [(test[start : start + block] @ train.T).topk(k, dim=1) for start in range(0, len(test), block)]
    return torch.cat([part.values for part in best]).cpu(), torch.cat([part.indices for part in best]).cpu()

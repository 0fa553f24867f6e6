"""Say in words what a report's figures mean, and what to do next: a few rules with thresholds."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from stages.components.report.numbers import figure, share

GOOD, LOOK, ACT = "good", "look", "act"
"""Kinds of advice: nothing to do, worth a look, something to do before training."""

_FEW_PAIRS = 10_000
_MANY_CUT, _MANY_ZERO = 0.05, 0.01
_MANY_REPEATED, _MANY_NEAR = 0.10, 0.10
_OFTEN_FALSE, _ALWAYS_FALSE = 0.25, 0.75  # share of captions that meet a false negative in a batch
_POOR_LIFT, _GOOD_LIFT = 0.05, 0.20  # of mean recall above chance, on up to 1,000 held-out pairs
_POOR_OVERLAP, _GOOD_OVERLAP = 3.0, 8.0  # times chance
_LOW_RANK = 20
_MANY_EQUAL = 0.05
_UNEVEN = 0.5

Report = Mapping[str, Any]


class Advice(NamedTuple):
    """What some figures mean.

    Attributes:
        kind: `GOOD`, `LOOK` or `ACT`.
        title: What was found.
        text: What it means, and what to do.
    """

    kind: str
    title: str
    text: str


def give_advice(report: Report) -> list[dict[str, str]]:
    """Say what the figures of a report mean, what has to be done first.

    Args:
        report: Report as it is written to JSON, but for the advice.
    """
    found = [advice for rule in _RULES if (advice := rule(report)) is not None]
    found.sort(key=lambda advice: (ACT, LOOK, GOOD).index(advice.kind))  # stable
    return [advice._asdict() for advice in found]


def _alone(report: Report) -> Advice | None:
    if "images" in report:
        return None
    return Advice(
        LOOK,
        "Captions alone",
        "Whether they fit the images is not measured. Run encode-images on the same manifest with a strong backbone, "
        "then report --features.",
    )


def _fit(report: Report) -> Advice | None:
    """Judge the ridge baseline and the shared neighbours together: both say whether a head has something to learn."""
    if "baseline" not in report:
        return None
    baseline, together = report["baseline"], report["together"]
    recall, chance = (baseline[part]["mean_recall"] for part in ("metrics", "chance"))
    lift = (recall - chance) / max(100 - chance, 1e-9)
    overlap = together.get("mutual_knn", 0.0) / max(together.get("chance", 0.0), 1e-9)
    said = (
        f"Ridge regression has a mean recall of {share(recall)} % on {baseline['num_held_out']:,} held-out pairs "
        f"(chance {share(chance)} %), and the two spaces share {share(together.get('mutual_knn', 0.0))} % of their "
        f"{together['num_neighbours']} nearest neighbours (chance {share(together.get('chance', 0.0))} %)."
    )
    if lift < _POOR_LIFT or overlap < _POOR_OVERLAP:
        return Advice(
            ACT,
            "Captions and features hardly agree",
            f"{said} Look below whether captions belong to their images at all. If they do, another backbone fits "
            "better: one trained on images like these, or with text (CLIP, SigLIP); or fine-tune it.",
        )
    if lift < _GOOD_LIFT or overlap < _GOOD_OVERLAP:
        return Advice(
            LOOK,
            "Captions and features agree in part",
            f"{said} A head will learn, and a stronger backbone will probably bring more than a better recipe. Compare "
            "the reports of two before training.",
        )
    return Advice(GOOD, "Captions and features agree", f"{said} Train a head: distill --features.")


def _few(report: Report) -> Advice | None:
    pairs = report["captions"]["num_pairs"]
    if pairs >= _FEW_PAIRS:
        return None
    return Advice(
        LOOK,
        f"Few pairs: {pairs:,}",
        "Train a linear head on frozen features with noise on them, many epochs in small batches, at a softer "
        "temperature (infonce at 0.07), without hard negatives; captions of a larger set of text may help as "
        "prototypes. Hold pairs out, and compare regression (simreg) as well.",
    )


def _cut(report: Report) -> Advice | None:
    captions = report["captions"]
    if not captions["cut"] or captions["cut"] < _MANY_CUT * captions["encoded"]:
        return None
    return Advice(
        ACT,
        f"{share(100 * captions['cut'] / captions['encoded'])} % of the captions are cut off",
        "They have more tokens than the teacher took. Encode them again with a larger --max-tokens where the model "
        "allows it, or take a text model for long texts.",
    )


def _unknown(report: Report) -> Advice | None:
    captions = report["captions"]
    if captions["num_zero"] <= _MANY_ZERO * captions["num_captions"]:
        return None
    return Advice(
        ACT,
        f"{captions['num_zero']:,} captions have no embedding",
        "The teacher knows no word of them, and training leaves them out. Take a text model for their language.",
    )


def _repeated(report: Report) -> Advice | None:
    captions = report["captions"]
    repeated = captions["repeated_pairs"] / max(1, captions["num_pairs"])
    if repeated < _MANY_REPEATED:
        return None
    return Advice(
        LOOK,
        f"{share(100 * repeated)} % of the pairs share their caption word for word",
        "In one batch they are each other's negatives. Have equal captions share the target (--loss-option "
        "infonce.merge-duplicates=true), or use them as labels (--loss unicl=1).",
    )


def _near(report: Report) -> Advice | None:
    near = report["captions"]["near_duplicates"]["share"]
    if near < _MANY_NEAR:
        return None
    return Advice(
        LOOK,
        f"{share(100 * near)} % of the captions have a near-duplicate",
        "They say the same in nearly the same words, so they add little, and recall on them is bounded. Look at the "
        "list below: templates and boilerplate are best taken out of the manifest.",
    )


def _false_negatives(report: Report) -> Advice | None:
    wanted = report["settings"]["false_negative_cosine"]
    rates = [rate for rate in report["captions"]["nearness"]["false_negatives"] if rate["cosine"] == wanted]
    if not rates:
        return None
    small, large = (rates[0]["batches"][place] for place in (0, -1))
    said = (
        f"At batch {small['batch_size']:,}, {share(100 * small['affected'])} % of the captions meet another one at a "
        f"cosine of {wanted:g} or above; at {large['batch_size']:,}, {share(100 * large['affected'])} % do, "
        f"{figure(large['mean'])} on average."
    )
    remedy = (
        "Have equal captions share their target (--loss-option infonce.merge-duplicates=true), spare near ones among "
        "the negatives (infonce.spare-above=0.9), or keep to smaller batches."
    )
    if small["affected"] >= _OFTEN_FALSE:
        return Advice(ACT, "False negatives in every batch", f"{said} {remedy}")
    if large["affected"] >= _ALWAYS_FALSE:
        return Advice(LOOK, "False negatives in large batches", f"{said} {remedy}")
    return Advice(GOOD, "Few false negatives", f"{said} Batches may be large.")


def _equal_images(report: Report) -> Advice | None:
    if "images" not in report:
        return None
    images = report["images"]
    equal, near = (images["num_equal"] or 0) / max(1, images["num_images"]), images["near_duplicates"]
    if max(equal, near) < _MANY_EQUAL:
        return None
    return Advice(
        LOOK,
        f"{share(100 * max(equal, near))} % of the images are there more than once",
        "The same file, or nearly the same image. Take placeholders out of the manifest, and see to it that held-out "
        "images have no copy among the others.",
    )


def _rank(report: Report) -> Advice | None:
    spaces = {"captions": report["captions"]["space"]}
    if "images" in report:
        spaces["features"] = report["images"]["space"]
    low = {name: space for name, space in spaces.items() if space["effective_rank"] < min(_LOW_RANK, space["dim"] / 4)}
    if not low:
        return None
    [(name, space), *_] = low.items()
    return Advice(
        ACT,
        f"The {name} fill few dimensions",
        f"Of {space['dim']:,}, effectively {space['effective_rank']:.0f}: they tell little apart. Check that the model "
        "is the right one and its weights are loaded, or take another.",
    )


def _balance(report: Report) -> Advice | None:
    balance = report["captions"].get("balance")
    if balance is None or balance["effective_share"] >= _UNEVEN:
        return None
    return Advice(
        LOOK,
        "Few subjects make up most captions",
        f"The largest tenth of {balance['num_prototypes']:,} prototypes has {share(100 * balance['largest_share'])} % "
        "of the captions. Try distill --balance, which draws rare ones more often, or thin out the frequent.",
    )


def _coverage(report: Report) -> Advice | None:
    coverage = report.get("coverage")
    if coverage is None:
        return None
    bare = [entry["query"] for entry in coverage if not entry["num_captions"]]
    if not bare:
        return Advice(GOOD, "Every query is covered", "Each has captions near it; how many, stands below.")
    named = ", ".join(bare[:5]) + (" and others" if len(bare) > 5 else "")
    return Advice(
        LOOK,
        f"{len(bare):,} of {len(coverage):,} queries have no caption near them",
        f"The pairs say nothing of {named}. Expect little of a student there, and add pairs of that kind.",
    )


_RULES: tuple[Callable[[Report], Advice | None], ...] = (
    _fit,
    _alone,
    _cut,
    _unknown,
    _false_negatives,
    _few,
    _repeated,
    _near,
    _equal_images,
    _rank,
    _balance,
    _coverage,
)

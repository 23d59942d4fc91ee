"""What the tables of a merging study compare."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

UNSEEN = ("pocket_unseen",)
HELD_IN = (  # of gin/pocket/merging_held_in.gin
    "pocket_kinds_what_are",
    "pocket_moods_was",
    "pocket_paraphrases_same_meaning",
    "pocket_people_who_is_it",
    "pocket_reviews_sentiment",
    "pocket_topics_topic",
    "pocket_work_needs",
)
COMPOSED, PARTS = ("pocket_composed",), ("pocket_topics", "pocket_reviews")
Settings = Mapping[str, tuple[str, ...]]
"""Names of a method's settings in result rows, by what the table calls it."""


class Table(NamedTuple):
    """What one table compares.

    Attributes:
      title: Of the table.
      held_out: Tasks that no expert was trained on.
      held_in: Tasks that experts were trained on.
      settings: The methods, the mean first.
      drawn: Kind of the experts whose mean is the random expert.
      beside: Names of experts that are compared on the held-out tasks, too.
    """

    title: str
    held_out: tuple[str, ...]
    held_in: tuple[str, ...]
    settings: Settings
    drawn: str
    beside: tuple[str, ...] = ()


def _of_library(prefix: str, mean: str, scales: Sequence[str]) -> Settings:
    names = ("covariance", "wudi", "ace", "regmean", "fisher")
    searched = ("greedy_soup", "lorahub", "adamerging")
    return {
        "uniform (the mean)": (mean,),
        "weighted by votes": (f"{prefix}_weighted",),
        "uniform, units aligned": (f"{prefix}_aligned",),
        "task arithmetic": tuple(f"{prefix}_{scale}" for scale in scales),
        "TIES": (f"{prefix}_ties", f"{prefix}_ties_half"),
        **{name: (f"{prefix}_{name}",) for name in (*names, *searched)},
        "random weights": ("random_weights",),
        "best voted alone": ("retrieved",),
        "base": ("base",),
    }


TABLES = (
    Table(
        "Three retrieved experts of each task",
        UNSEEN,
        HELD_IN,
        _of_library("top3", "merged_top3", ("sum", "half_sum", "third_sum")),
        "prompt",
    ),
    Table(
        "All 20 prompt experts",
        UNSEEN,
        HELD_IN,
        _of_library("all", "merged_all", ("third_sum", "small_sum", "least_sum")),
        "prompt",
    ),
    Table(
        "The two parts of the composed task",
        COMPOSED,
        PARTS,
        {
            "uniform (the mean)": ("parts_uniform",),
            "weighted 3 : 1": ("parts_weighted_3_1",),
            "weighted 1 : 3": ("parts_weighted_1_3",),
            "task arithmetic": ("parts_task_arithmetic",),
            "TIES": ("parts_ties",),
            **{
                name: (f"parts_{name}",)
                for name in ("covariance", "wudi", "ace", "regmean", "fisher")
                + ("greedy_soup", "lorahub", "adamerging", "adamerging_layers")
            },
            "noise, like pocket_topics": ("parts_noise_topics",),
            "noise, like pocket_reviews": ("parts_noise_reviews",),
            "pocket_topics": ("pocket_topics",),
            "pocket_reviews": ("pocket_reviews",),
            "base": ("base",),
        },
        "dataset",
        ("pocket_topics", "pocket_reviews"),
    ),
)

"""What the tables of merging studies compare."""

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
REAL = (  # of gin/original/merging_study.gin
    "quail_context_question_description_answer_text",
    "cosmos_qa_context_question_description_answer_text",
)
REAL_HELD_IN = (
    "dream_read_the_following_conversation_and_answer_the_question",
    "cos_e_v1.11_question_option_description_text",
    "rotten_tomatoes_Reviewer_Enjoyment_Yes_No",
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
      split: Whose rows are shown.
    """

    title: str
    held_out: tuple[str, ...]
    held_in: tuple[str, ...]
    settings: Settings
    drawn: str
    beside: tuple[str, ...] = ()
    split: str = "test"


_CONTROLS: Settings = {
    "random weights": ("random_weights",),
    "best voted alone": ("retrieved",),
    "base": ("base",),
}


def _of_library(prefix: str, mean: str, scales: Sequence[str]) -> Settings:
    names = ("covariance", "wudi", "ace", "regmean", "fisher")
    searched = ("greedy_soup", "adamerging", "lorahub")
    return {
        "uniform (the mean)": (mean,),
        "weighted by votes": (f"{prefix}_weighted",),
        "uniform, units aligned": (f"{prefix}_aligned",),
        "task arithmetic": tuple(f"{prefix}_{scale}" for scale in scales),
        "TIES": (f"{prefix}_ties", f"{prefix}_ties_half"),
        **{name: (f"{prefix}_{name}",) for name in (*names, *searched)},
        "lorahub, without gradients": (f"{prefix}_lorahub_searched",),
        **_CONTROLS,
    }


def _of_loras(prefix: str, mean: str, scales: Sequence[str]) -> Settings:
    several = {  # methods of some scales, by the beginning of their names
        "task arithmetic": "",
        "low_rank_sum, all ranks": "low_rank_",
        "low_rank_sum, rank of one": "cut_",
    }
    names = ("knots", "tsv_merge", "iso_c")
    names += ("covariance", "wudi", "ace", "regmean", "fisher")
    return {
        "uniform (the mean)": (mean,),
        "weighted by votes": (f"{prefix}_weighted",),
        **{
            label: tuple(f"{prefix}_{start}{scale}" for scale in scales)
            for label, start in several.items()
        },
        "TIES": (f"{prefix}_ties", f"{prefix}_ties_half"),
        "DARE": tuple(f"{prefix}_dare_{scale}" for scale in (scales[0], scales[-1])),
        **{name: (f"{prefix}_{name}",) for name in names},
        "greedy soup": (f"{prefix}_greedy_soup",),
        "lorahub, without gradients": (f"{prefix}_lorahub_searched",),
        **_CONTROLS,
    }


def _each(settings: Settings) -> Settings:
    """Returns a line of its own for each setting, where no rows are there to choose."""
    return {
        f"{label}, {name}" if len(names) > 1 else label: (name,)
        for label, names in settings.items()
        for name in names
    }


_TOP3_SCALES = ("sum", "half_sum", "third_sum")
_ALL_SCALES = ("third_sum", "small_sum", "least_sum")
_TOP3 = _of_library("top3", "merged_top3", _TOP3_SCALES)
_ALL = _of_library("all", "merged_all", _ALL_SCALES)

TABLES = (
    Table(
        "Three retrieved experts of each task",
        UNSEEN,
        HELD_IN,
        _TOP3,
        "prompt",
    ),
    Table(
        "All 20 prompt experts",
        UNSEEN,
        HELD_IN,
        _ALL,
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
                + ("greedy_soup", "adamerging", "adamerging_layers", "lorahub")
            },
            "lorahub, without gradients": ("parts_lorahub_searched",),
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

LORA_TABLES = (
    Table(
        "Three retrieved LoRA experts of each task",
        UNSEEN,
        HELD_IN,
        _of_loras("top3", "merged_top3", _TOP3_SCALES),
        "prompt",
    ),
    Table(
        "All 20 LoRA experts",
        UNSEEN,
        HELD_IN,
        _of_loras("all", "merged_all", _ALL_SCALES),
        "prompt",
    ),
)

# Their datasets have one split with labels, so that no other rows choose settings.
REAL_TABLES = tuple(
    Table(title, REAL, REAL_HELD_IN, _each(settings), "prompt", split="validation")
    for title, settings in (
        ("Three retrieved experts of each task", _TOP3),
        ("All prompt experts", _ALL),
    )
)

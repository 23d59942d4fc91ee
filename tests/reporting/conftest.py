"""A made-up report of a real one's size, with names that try to break out."""

import math

import numpy as np
import pytest

from elm_jax.evaluation import results
from elm_jax.reporting import report

HOSTILE = "<script>alert(\"x\")</script> & 'q' {{ 7*7 }} | [red]"
DATASETS = {"riddles": 3, "endings": 3, "senses": 2, "pronouns": 2}
CHANCE = {"riddles": 33.3, "endings": 50.0, "senses": 50.0, "pronouns": 50.0}
# Of what makes readers careful, what lies above and below the share that is marked.
FACTS = {
    "riddles": {"inputs_cut": 12.5, "undistinguished": 0.5},
    "endings": {
        "inputs_cut": 1.0,
        "undistinguished": 25.0,
        "undistinguished_reasons": {"choices of the same text": 50},
    },
}
TRAINED = ("animals", "places", "weather", "recipes", "letters", "trades")


def row(expert, dataset, prompt, value, **facts):
    return results.ResultRow(
        **facts,
        expert=expert,
        base_fingerprint="0123456789abcdef",
        task=f"{dataset}_{prompt}",
        dataset=dataset,
        prompt=prompt,
        split="test",
        protocol="elm",
        seed=0,
        checkpoint_step=300,
        run_id="example",
        metric="accuracy",
        value=value,
        num_examples=200,
    )


def example_rows():
    rng = np.random.default_rng(7)
    prompts = [f"{name}_{kind}" for name in TRAINED for kind in "abcde"]
    experts = ["base", "multitask", *prompts[:-1], HOSTILE]
    skills = rng.normal(size=(len(experts), 3))
    skills[0] = 0.0
    rows = []
    for dataset, num_prompts in DATASETS.items():
        wants = rng.normal(size=3)
        for prompt in range(num_prompts):
            for expert, skill in zip(experts, skills, strict=True):
                lift = 6.0 * float(skill @ wants) + rng.normal() * 2
                value = min(97.5, max(8.0, CHANCE[dataset] + lift))
                name = ("answer_the_question", "which_is_it", "choose")[prompt]
                facts = FACTS.get(dataset, {})
                if expert == experts[4]:
                    facts = facts | {"ties": 2.5}
                rows.append(row(expert, dataset, name, round(2 * value) / 2, **facts))
    return rows


def example_headline():
    rng = np.random.default_rng(3)
    ways = {
        "base": ("before any training", 0.0),
        "multitask": ("one expert for all tasks", 6.0),
        "retrieved": ("RoE: one expert per prompt", 9.5),
        "merged_top3": ("mean of the three retrieved", 8.0),
        "best_per_prompt_crossfit": ("chosen on the other half", 10.0),
        "oracle": ("best expert per prompt: a bound", 19.0),
    }
    rows = []
    for name, (note, lift) in ways.items():
        means = [CHANCE[d] + lift + rng.normal() * 2 for d in DATASETS]
        cells = [results.Interval(m, m - 4.1, m + 3.9, 200) for m in means]
        mean = float(np.mean(means))
        cells.append(results.Interval(mean, mean - 2.2, mean + 2.1, 800))
        rows.append(
            report.HeadlineRow(name, tuple(cells), note, is_reference=name == "oracle")
        )
    chance = [results.Interval(value) for value in CHANCE.values()]
    chance.append(results.Interval(float(np.mean(list(CHANCE.values())))))
    rows.insert(0, report.HeadlineRow("chance", tuple(chance), "", is_reference=True))
    strong = frozenset({(3, 0), (5, 0), (5, 4)})
    return report.Headline(
        (*DATASETS, "mean"),
        tuple(rows),
        column_marks={0: "c", 1: "u", 4: "cu"},
        marks={("retrieved", 1): "t", ("retrieved", 4): "t"},
        strong=strong,
        legend=("c: what c means.", f"u: what u means, {HOSTILE}.", "t: ties."),
    )


def example_figures():
    gap = results.Interval(3.5, 1.2, 5.8)
    return report.Figures(
        title="Differences from multitask (points)",
        columns=("difference", "won : lost", "least shown", HOSTILE),
        rows=(
            ("retrieved", (report.Signed(gap), "31 : 12", 3.4, gap)),
            (HOSTILE, (None, HOSTILE, 0.04, None)),
        ),
        notes=("difference: what it is.", HOSTILE),
    )


def example_curve(name, *, seed):
    rng = np.random.default_rng(seed)
    steps = np.arange(0, 301, 2)
    floor, start = rng.uniform(0.05, 0.9), rng.uniform(1.8, 3.2)
    losses = floor + (start - floor) * np.exp(-steps / rng.uniform(25, 120))
    losses = losses * np.exp(0.08 * rng.normal(size=len(steps)))
    return report.Curve(name, tuple(zip(steps.tolist(), losses.tolist(), strict=True)))


def example_report():
    rows = example_rows()
    experts = sorted({r.expert for r in rows} - {"base", "multitask"})
    retrieved = {r.task: experts[len(r.task) % 7 + 3] for r in rows}
    return report.Report(
        title="Experts on the pocket suite",
        summary="30 prompt experts and one multitask model, trained on the same"
        " tokens from one small base, judged on four datasets nobody trained on.",
        claims=(
            results.Claim(
                "Experts beat the multitask model on unseen tasks",
                True,
                "Against multitask (51.8 [49.6, 53.9]): retrieved +3.5 [+1.2, +5.8]"
                " points, best_single +4.0 [+1.9, +6.2] points; judged by retrieved.",
            ),
            results.Claim(
                "Old scores stay the same, byte for byte, after an expert is added",
                False,
                "309 of 310 result rows are identical; 1 differ, 0 were not scored"
                " again.",
            ),
            results.Claim(
                f"A merge of {HOSTILE} beats either alone", None, "Undecided: 0 ± 1."
            ),
        ),
        headline=example_headline(),
        figures=(example_figures(),),
        heat_maps=(
            report.heat_map(
                rows,
                title="Experts on unseen tasks",
                chosen=retrieved,
                chosen_by="retrieved",
            ),
        ),
        votes=(
            *(
                report.Votes(
                    f"{dataset}_answer_the_question",
                    tuple(zip(experts[i : i + 9], (11, 7, 5, 3, 2, 1, 1, 1, 1))),  # noqa: B905
                )
                for i, dataset in enumerate(DATASETS)
            ),
            report.Votes(HOSTILE, ((HOSTILE, 30), ("animals_a", 2))),
        ),
        curves=tuple(
            example_curve(name, seed=seed) for seed, name in enumerate(experts)
        ),
        details=(
            ("base", "pocket, 10.0 M parameters, 0123456789abcdef"),
            ("protocol", "elm, 200 rows per prompt, seed 0"),
            ("name", HOSTILE),
        ),
        notes=(
            "The oracle is chosen on the rows it is reported on: an upper bound.",
            HOSTILE,
        ),
    )


@pytest.fixture(name="example")
def example_fixture():
    return example_report()


@pytest.fixture(name="hostile")
def hostile_fixture():
    return HOSTILE


@pytest.fixture(name="row")
def row_fixture():
    return row


@pytest.fixture(name="small")
def small_fixture():
    """A report of a few cells, which tests can write out."""
    cell = results.Interval
    return report.Report(
        title="Small",
        claims=(results.Claim("A holds", True, "1.0 > 0.0."),),
        headline=report.Headline(
            ("quail", "mean"),
            (
                report.HeadlineRow("chance", (cell(25.0), cell(25.0)), "", True),
                report.HeadlineRow("base", (cell(31.0, 28.0, 34.0), None)),
                report.HeadlineRow("oracle", (cell(60.0, math.nan), None), "", True),
            ),
            strong=frozenset({(1, 0)}),
        ),
        heat_maps=(
            report.heat_map(
                [
                    row("base", "quail", "p", 30.0),
                    row("one|two", "quail", "p", 40.0),
                    row("three", "quail", "p", 20.0),
                ],
                title="All",
                chosen={"quail_p": "three"},
                chosen_by="nearest & first",
            ),
        ),
        votes=(report.Votes("quail_p", (("three", 20), ("one|two", 12))),),
        notes=("Read *this*.",),
    )

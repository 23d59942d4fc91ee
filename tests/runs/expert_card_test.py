"""A card tells what a manifest has, and the template, as Markdown."""

import dataclasses

from elm_jax.checkpoints import manifest
from elm_jax.runs import expert_card

INFO = manifest.Manifest(
    name="kinds",
    kind="prompt",
    base_name="small",
    base_fingerprint="0123456789abcdef",
    model={"emb_dim": 8},
    trainable_pattern="_adapter/|_norm/scale$",
    adapter={"kind": "bottleneck"},
    tasks=("kinds_what", "kinds_which"),
    data={"kinds_what": {"num_examples": 600, "fingerprint": "4cd32b740af0f5f5"}},
    steps=200,
    seed=7,
    training={"batch_size": 24, "model": {"emb_dim": 8}, "optimizer": {"b1": 0.9}},
    licences={"kinds_what": "CC BY 4.0"},
    metrics={"loss": 0.00230041},
)


def test_a_card_has_base_rows_settings_and_templates():
    lines = expert_card.text(
        INFO, {"kinds_what": "What is {{x}}? ||| ```{{y}}```"}
    ).split("\n")
    assert lines[0] == "# kinds"
    for line in (
        "| base | small, fingerprint 0123456789abcdef |",
        "| steps | 200 |",
        "| seed | 7 |",
        "| loss at the end | 0.0023 |",
        "| licence of the data | CC BY 4.0 (1 task), not known (1 task) |",
        "| kinds_what | 600 | 4cd32b740af0f5f5 | CC BY 4.0 |",
        "| kinds_which |  |  | not known |",
        "| optimizer.b1 | `0.9` |",
        "````jinja",
        "What is {{x}}? ||| ```{{y}}```",
        "kinds_which: none, or not at hand.",
    ):
        assert line in lines
    assert r"| trained parameters | `_adapter/\|_norm/scale$` |" in lines


def test_a_card_is_made_of_the_simplest_manifest():
    least = dataclasses.replace(INFO, data={}, training={}, metrics={}, adapter=None)
    assert "| adapter | none |" in expert_card.text(least, {})


def test_a_licence_of_all_tasks_is_told_once_and_one_of_none_is_not_known():
    line = "| licence of the data | {} |"
    same = dict.fromkeys(INFO.tasks, "MIT")
    both = dataclasses.replace(INFO, licences=same)
    none = dataclasses.replace(INFO, licences={})
    assert line.format("MIT") in expert_card.text(both, {})
    assert line.format("not known") in expert_card.text(none, {})
    assert both.fingerprint == none.fingerprint == INFO.fingerprint
    assert both.recipe == none.recipe


def test_a_card_tells_that_the_base_is_held_as_int8():
    held = dataclasses.replace(INFO, model=INFO.model | {"base_dtype": "int8"})
    line = "| base | small, fingerprint 0123456789abcdef, held as int8 |"
    assert line in expert_card.text(held, {})

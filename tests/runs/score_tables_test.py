"""The table of elm_eval tells what its numbers are means over."""

from elm_jax.evaluation import results
from elm_jax.reporting import marks
from elm_jax.runs import score_tables


def row(expert, dataset, prompt, value, **facts):
    return results.ResultRow(
        expert=expert,
        base_fingerprint="0123",
        task=f"{dataset}_{prompt}",
        dataset=dataset,
        prompt=prompt,
        split="test",
        protocol="elm",
        seed=0,
        checkpoint_step=0,
        run_id="r",
        metric="accuracy",
        value=value,
        num_examples=8,
        **facts,
    )


def shown(capsys, *rows):
    score_tables.show(rows)
    return " ".join(capsys.readouterr().out.split())


def test_a_mean_over_fewer_prompts_is_marked(capsys):
    rows = [
        row("a", "d", "p", 10.0),
        row("a", "d", "q", 20.0),
        row("b", "d", "q", 90.0),
    ]
    out = shown(capsys, *rows)
    assert "│ a │ 15.0 │" in out
    assert "│ b │ 90.0 (p) │" in out
    assert marks.PART_LEGEND in out
    assert "(p)" not in shown(capsys, *rows[:2])


def test_many_columns_are_listed_with_all_marks_and_names_stay_text(capsys):
    rows = [row("x[/y]", f"d{n}", "p", float(n), inputs_cut=n * 10.0) for n in range(7)]
    out = shown(capsys, *rows, row("base", "d1", "p", 1.0, ties=2.0))
    assert "│ x[/y] │ d6 │ accuracy │ 6.0 (c) │" in out
    assert "│ x[/y] │ d0 │ accuracy │ 0.0 │" in out
    assert "│ base │ d1 │ accuracy │ 1.0 (t) │" in out
    assert "d6_p 60.0 %; d5_p 50.0 %; d4_p 40.0 %; 3 more tasks." in out

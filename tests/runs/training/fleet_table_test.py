import io

from rich.console import Console

from elm_jax.runs.training import fleet_table

SCALARS = {
    "loss": 1.25,
    "learning_rate": 0.001,
    "steps_per_sec": 2.0,
    "secs_left": 75.0,
}


def make_table(*, is_terminal):
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
    return fleet_table.FleetTable(["one", "two", "three"], console=console), console


def shown(console):
    return console.file.getvalue()


def test_a_terminal_shows_one_row_per_expert_in_a_slot():
    table, console = make_table(is_terminal=True)
    with table:
        table.writer("one", num_steps=200).write(100, SCALARS)
        table.writer("two", num_steps=300)
        console.print(table.render())
    text = shown(console)
    for cell in ("one", "100/200", "1.25", "0.001", "1 min 15 s", "two"):
        assert cell in text
    assert "0 of 3 landed, 1 waiting" in text
    assert "three" not in text


def test_an_expert_that_landed_leaves_the_table_with_a_line():
    table, console = make_table(is_terminal=True)
    table.writer("one", num_steps=200)
    table.note_left("one")
    table.note_landed("one")
    assert "one: landed, 1 of 3" in shown(console)
    assert table.render().row_count == 0


def test_without_a_terminal_there_are_lines(capsys):
    table, console = make_table(is_terminal=False)
    with table:
        table.writer("one", num_steps=200).write(100, SCALARS)
        table.note_landed("one")
    assert "one: step 100/200, loss 1.25" in capsys.readouterr().err
    assert shown(console) == "one: landed, 1 of 3\n"

"""Tasks on the terminal: what became of their rows, and examples."""

from collections.abc import Sequence

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from elm_jax.data import rendering
from elm_jax.reporting import task_page, terminal


def show(cards: Sequence[task_page.TaskCard], split: str) -> None:
    """Prints each task's facts, then the examples of each.

    Args:
      cards: What is known of the tasks.
      split: The split that was read.
    """
    terminal.show(Text(f"{len(cards)} tasks, {split}\n", style="bold"))
    for card in cards:
        facts = dict(card.facts)
        kinds = [facts.get(name, "") for name in ("cluster", "role", "metrics")]
        terminal.show(Text(card.name, style="bold"))
        terminal.show(Text(f"  {' · '.join(filter(None, kinds))}"))
        terminal.show(Text(f"  {_in_words(card)}"))
        for trouble in _troubles(card):
            terminal.show(Text(f"  {trouble}"))
        for warning in card.warnings:
            terminal.show(Text(f"  {warning}", style="bold red"))
        print()  # noqa: T201
    for card in cards:
        _show_examples(card, split)


def _show_examples(card: task_page.TaskCard, split: str) -> None:
    dropped = rendering.in_words(dict(card.dropped))
    title = f"{card.name} {split}: {card.num_examples} of {card.num_rows} rows"
    if card.problem:
        terminal.show(Panel(card.problem, title=Text(title)))
    for example in card.examples:
        right = Text(f"-> {example.targets}\n")
        for number, choice in enumerate(example.choices):
            mark = "*" if number == example.label else " "
            right.append(f"\n{mark} {choice}")
        sides = Table.grid(expand=True, padding=(0, 3))
        sides.add_column(ratio=2)
        sides.add_column(ratio=1)
        sides.add_row(Text(example.inputs), right)
        subtitle = Text(dropped) if dropped else None
        terminal.show(Panel(sides, title=Text(title), subtitle=subtitle))


def _in_words(card: task_page.TaskCard) -> str:
    """Returns a task's counts and lengths as a line."""
    if card.problem:
        return f"cannot be read: {card.problem.splitlines()[0]}"
    parts = [
        f"{card.num_rows}{'' if card.is_whole else '+'} rows",
        f"{task_page.share(card.dropped_share)} % dropped",
        f"{task_page.share(card.no_choice_share)} % without a correct choice",
    ]
    for lengths in card.lengths:
        middle, longest = lengths.percentiles[1], lengths.percentiles[-1]
        cut = f"{task_page.share(lengths.cut_share)} % cut"
        parts.append(f"{lengths.column} {middle} to {longest} tokens, {cut}")
    return "; ".join(parts)


def _troubles(card: task_page.TaskCard) -> list[str]:
    """Returns why rows are dropped, or count for little, a line for each reason."""
    lines = []
    for reason, n in card.dropped:
        lines.append(f"dropped: {n} x {reason}")
        if reason in card.first_bad:
            lines.append(f"  the first is {card.first_bad[reason]}")
    lines += [
        f"{task_page.share(lengths.unknown_share)} % with characters in"
        f" {lengths.column} that the vocabulary lacks"
        for lengths in card.lengths
        if lengths.unknown_share
    ]
    return lines + [f"{n} x {reason}" for reason, n in card.indistinct]

import dataclasses
import itertools
import pathlib

from elm_jax.data import tasks
from elm_jax.evaluation import overlap
from elm_jax.reporting import marks
from tasks import pocket, pocket_selection

_ROOT = pathlib.Path(pocket.__file__).parents[1]


def test_what_trains_is_what_chooses_and_nothing_that_is_reported():
    unseen = tasks.registry.expand("pocket_unseen")
    found = tasks.registry.expand("pocket_selection")
    assert len(found) == len(unseen) == 10
    for name, other in zip(found, unseen, strict=True):
        task, of = tasks.registry.task(name), tasks.registry.task(other)
        assert task.splits == {"train": "validation"}
        own = {"name": task.name, "splits": task.splits, "source": task.source}
        assert task == dataclasses.replace(of, **own)
        marks = [
            s.fingerprint("validation", data_dir="") for s in (task.source, of.source)
        ]
        assert marks[0] == marks[1]


def test_rows_that_choose_are_others_than_those_that_are_reported():
    for task in pocket_selection.TASKS:
        source = pocket.source(task.dataset.removeprefix("pocket_"))
        one, other = (
            [repr(row) for row in itertools.islice(source.rows(split, data_dir=""), 50)]
            for split in (task.splits["train"], "test")
        )
        assert one
        assert not {*one} & {*other}


def test_its_commands_mark_rows_like_those_that_it_was_trained_on():
    trained, scored = (
        overlap.Texts.of(inputs(split)) for split in ("validation", "test")
    )
    (places,) = overlap.Search([scored]).rows_in(trained)
    assert overlap.share(range(len(scored)), [places]) > marks.MOST_PERCENT
    for path in ("gin/pocket/selection.gin", "elm_jax/evaluation/README.md"):
        _, _, after = (_ROOT / path).read_text().partition('"{MODEL_DIR}/selection"')
        assert "Evaluate.overlap='\"mark\"'" in after[:100]


def inputs(split):
    task = tasks.registry.task("pocket_endings_go_on")
    template = task.template.load("")
    for seed, row in enumerate(task.source.rows(split, data_dir="")):
        yield template.render(row, seed=seed).inputs

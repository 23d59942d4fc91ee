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
    selecting = tasks.registry.expand("pocket_selection")
    assert len(selecting) == len(unseen) == 10
    for name, unseen_name in zip(selecting, unseen, strict=True):
        task, of = tasks.registry.task(name), tasks.registry.task(unseen_name)
        assert task.splits == {"train": "validation"}
        changed = {"name": task.name, "splits": task.splits, "source": task.source}
        assert task == dataclasses.replace(of, **changed)
        marks = [
            s.fingerprint("validation", data_dir="") for s in (task.source, of.source)
        ]
        assert marks[0] == marks[1]


def test_rows_that_choose_are_others_than_those_that_are_reported():
    for task in pocket_selection.TASKS:
        source = pocket.source(task.dataset.removeprefix("pocket_"))
        choosing, reported = (
            [repr(row) for row in itertools.islice(source.rows(split, data_dir=""), 50)]
            for split in (task.splits["train"], "test")
        )
        assert choosing
        assert not {*choosing} & {*reported}


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

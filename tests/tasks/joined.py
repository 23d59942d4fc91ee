"""The rows of many SeqIO tasks, sent through one pipeline that all of them have."""

import dataclasses


@dataclasses.dataclass
class Joined:
    """The examples of many SeqIO tasks, to go through one of them."""

    dtypes: dict
    lengths: dict
    like: object = None
    facts: tuple = ()
    rows: list = dataclasses.field(default_factory=list)
    expected: list = dataclasses.field(default_factory=list)

    def add(self, seqio_task, split, expected):
        """Takes what the source of a task gives; all else is as the others have it."""
        dataset = seqio_task.source.get_dataset(split, shuffle=False)
        facts = (*pipeline(seqio_task), dataset.element_spec)
        self.like, self.facts = self.like or seqio_task, self.facts or facts
        assert facts == self.facts, seqio_task.name
        rows = [*dataset.as_numpy_iterator()]
        assert len(rows) == len(expected), seqio_task.name
        self.rows += rows
        self.expected += expected

    def check(self):
        """Compares the examples that SeqIO makes of all rows with those expected."""
        import seqio
        import tensorflow as tf
        from seqio import test_utils

        columns = {name: [row[name] for row in self.rows] for name in self.rows[0]}
        whole = seqio.Task(
            "joined",
            source=seqio.FunctionDataSource(
                lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(
                    columns
                ),
                splits=("all",),
            ),
            preprocessors=self.like.preprocessors,
            output_features=self.like.output_features,
        )
        dataset = whole.get_dataset(self.lengths, "all", shuffle=False)
        test_utils.assert_dataset(dataset, self.expected, self.dtypes)


def pipeline(seqio_task):
    """What makes a SeqIO task's examples of the rows of its source."""
    import seqio

    placeholder = seqio.CacheDatasetPlaceholder  # its objects have no equality
    steps = [
        placeholder if isinstance(step, placeholder) else step
        for step in seqio_task.preprocessors
    ]
    return steps, seqio_task.output_features

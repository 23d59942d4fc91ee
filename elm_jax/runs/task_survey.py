"""What a task's rows become: counts, lengths and examples, without building a cache."""

import dataclasses
import itertools

import numpy as np

from elm_jax import errors
from elm_jax.data import rendering, tasks, token_counts, tokenizing, vocabulary
from elm_jax.reporting import task_page

_FACTS = ("dataset", "prompt", "cluster", "role", "note")


@dataclasses.dataclass(frozen=True)
class Surveyor:
    """How tasks are looked at.

    Attributes:
      split: The split to read.
      data_options: Where data and templates are.
      features: Lengths that say what would be cut.
      vocabulary: Counts tokens; None leaves lengths out.
      num_rows: Rows to read of each task, 0 for all.
      num_examples: Examples to keep.
    """

    split: str
    data_options: tasks.DataOptions
    features: tasks.Features
    vocabulary: vocabulary.SentencePiece | None
    num_rows: int
    num_examples: int

    def survey(self, name: str) -> task_page.TaskCard:
        """Returns the facts about a task's rows; they include a problem, if any."""
        task = tasks.registry.task(name)
        card = task_page.TaskCard(name, self.split, _facts(task))
        if isinstance(task, tasks.SeqioTask):
            problem = "It is defined in SeqIO alone; look at it with SeqIO's own tools."
            return dataclasses.replace(card, problem=problem)
        try:
            rendered, is_whole = self._rendered(task)
        except errors.ElmError as error:
            return dataclasses.replace(card, problem=str(error))
        bad = f"bad: {rendering.NO_CORRECT_CHOICE}"
        without = (
            rendered.dropped[bad]
            + rendered.dropped[f"bad: {rendering.TOO_FEW_CHOICES}"]
        )
        tokens = None
        if self.vocabulary is not None:
            is_text = isinstance(task, tasks.TextTask)
            tokens = tokenizing.tokenize(
                rendered, self.vocabulary, self.features, is_text=is_text
            )
        return dataclasses.replace(
            card,
            num_rows=rendered.num_rows,
            num_examples=len(rendered),
            is_whole=is_whole,
            dropped=tuple(rendered.dropped.most_common()),
            no_choice_share=without / max(rendered.num_rows, 1),
            first_bad=rendered.first_bad,
            indistinct=tuple(tokens.indistinct.most_common()) if tokens else (),
            lengths=self._lengths(task, tokens) if tokens else (),
            examples=tuple(
                task_page.TaskExample(*fields)
                for fields in itertools.islice(
                    zip(
                        *(rendered.inputs, rendered.targets, rendered.choices),
                        *(rendered.labels, rendered.example_ids),
                        strict=True,
                    ),
                    self.num_examples,
                )
            ),
        )

    def _rendered(
        self, task: tasks.Task | tasks.TextTask
    ) -> tuple[rendering.RenderedSplit, bool]:
        """Returns the texts of the first rows, and whether these were all."""
        rows = rendering.served(task, self.split, self.data_options).rows()
        some = itertools.islice(rows, self.num_rows) if self.num_rows else rows
        chars = self.features.max_value_chars
        rendered = rendering.render_rows(
            some,
            split=self.split,
            template=rendering.load_template(
                task, self.split, self.data_options, chars
            ),
            field=task.field if isinstance(task, tasks.TextTask) else "",
            limits=self.data_options.limits,
        )
        return rendered, next(rows, None) is None

    def _lengths(
        self, task: tasks.AnyTask, tokens: tokenizing.Tokenized
    ) -> tuple[task_page.Lengths, ...]:
        assert self.vocabulary is not None  # noqa: S101 - for type checkers
        is_text = isinstance(task, tasks.TextTask)
        lengths = tokens.lengths
        num_examples = max(len(tokens.columns.labels), 1)
        unknown = token_counts.count_unknown(tokens.columns, self.vocabulary.unknown_id)
        return tuple(
            task_page.Lengths(
                column=column,
                percentiles=tuple(token_counts.percentiles(lengths[column]).values()),
                limit=limit,
                cut_share=float(np.mean(lengths[column] > limit))
                if not is_text
                else 0.0,
                unknown_share=unknown[column]["examples"] / num_examples,
            )
            for column, limit in token_counts.limits_of(self.features).items()
            if len(lengths[column]) and lengths[column].max()
        )


def _facts(task: tasks.AnyTask) -> tuple[tuple[str, str], ...]:
    facts = [(name, str(getattr(task, name, ""))) for name in _FACTS]
    facts.append(("metrics", ", ".join(getattr(task, "metrics", ()))))
    facts.append(("splits", ", ".join(getattr(task, "splits", ()))))
    return tuple((name, value) for name, value in facts if value)

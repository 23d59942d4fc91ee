"""Our tasks for T5X: the module that its gin files name.

    from tasks import for_t5x
    MIXTURE_OR_TASK_MODULE = "tasks.for_t5x"
    MIXTURE_OR_TASK_NAME = @for_t5x.registered()
    for_t5x.registered.name = "pocket_kinds"

Importing it adds the embedded suite and the tasks of the paper to our registry.
`registered` adds one of them to SeqIO's registry, where T5X looks.
"""

from typing import Any

from elm_jax import errors
from elm_jax.data import seqio_tasks, tasks, vocabulary
from elm_jax.evaluation import metrics
from tasks import bigbench, compositional, generative, original, own, pocket

# Imported because they register tasks.
SUITES = (bigbench, compositional, generative, original, own, pocket)


def seqio_vocabulary(vocabulary_file: str, extra_ids: int = 100) -> Any:
    """Returns the vocabulary for T5X's model, the same as that of `registered` tasks.

    Args:
      vocabulary_file: A SentencePiece model, with sentinels of its own or without.
      extra_ids: Number of sentinels that it gets, or brings.
    """
    return vocabulary.SentencePiece(vocabulary_file, extra_ids).seqio()


def registered(
    name: str,
    *,
    vocabulary_file: str | None = None,
    extra_ids: int = 100,
    data_dir: str = "",
    templates_dir: str = "",
    inputs_eos: bool = True,
) -> str:
    """Returns a task's or mixture's name, known to SeqIO from now on.

    Args:
      name: A task or mixture of `tasks/`.
      vocabulary_file: A SentencePiece model; the embedded suite's own if None.
      extra_ids: Number of sentinels that the vocabulary gets, or brings; T5 has 100.
      data_dir: Folder of the datasets of the paper.
      templates_dir: Where PromptSource's templates were unpacked.
      inputs_eos: Whether inputs end with the end token.

    Raises:
      ConfigError: There is no such task or mixture.
    """
    used = pocket.VOCABULARY
    if vocabulary_file is not None:
        used = vocabulary.SentencePiece(vocabulary_file, extra_ids)
    names = seqio_tasks.register_with_seqio(
        name,
        vocabulary=used,
        # T5X gives the lengths itself.
        features=tasks.Features(inputs_eos=inputs_eos),
        data_options=tasks.DataOptions(
            "", data_dir=data_dir, templates_dir=templates_dir
        ),
        metric_fns={name: metric.fn for name, metric in metrics.METRICS.items()},
    )
    if name not in names:
        raise errors.ConfigError(
            found=f"{name!r}, which stands for {', '.join(names) or 'nothing'}",
            expected="the name of one task or mixture",
            do="Choose one that `elm_tasks` lists",
        )
    return name

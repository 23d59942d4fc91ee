"""What T5X calls by our gin files gives it tasks of ours through SeqIO."""

import pytest
from seqio import MixtureRegistry, TaskRegistry

from elm_jax import errors
from tasks import for_t5x, pocket


def test_a_task_is_known_to_seqio_with_its_metrics_and_vocabulary():
    name = "pocket_kinds_which_is"
    assert for_t5x.registered(name) == name
    task = TaskRegistry.get(name)
    assert [fn.__name__ for fn in task.metric_fns] == ["accuracy"]
    feature = task.output_features["inputs"]
    assert feature.vocabulary.vocab_size == pocket.VOCABULARY.size
    assert feature.add_eos
    lengths = {"inputs": 32, "targets": 8}
    dataset = task.get_dataset(lengths, "validation", shuffle=False)
    first = next(iter(dataset.as_numpy_iterator()))
    assert first["targets"][-1] == 1
    assert task.score_metric_fns == []
    assert task.metric_fns[0](["a"], ["a"]) == {"accuracy": 100.0}


def test_a_mixture_brings_its_tasks():
    assert for_t5x.registered("pocket_work") == "pocket_work"
    names = {task.name for task in MixtureRegistry.get("pocket_work").tasks}
    assert names == {"pocket_work_needs", "pocket_work_goes_with"}


def test_a_pattern_is_no_name():
    with pytest.raises(errors.ConfigError, match="one task or mixture"):
        for_t5x.registered("pocket_w*")

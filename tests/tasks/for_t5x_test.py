"""What T5X calls by our gin files gives it tasks of ours through SeqIO."""

import importlib
import pathlib

import gin
import pytest

from elm_jax import errors
from elm_jax.data import tensorflow_imports
from tasks import for_t5x, pocket

ROOT = pathlib.Path(__file__).parents[2]


def task_of_seqio(name):
    return tensorflow_imports.import_seqio().TaskRegistry.get(name)


def test_a_task_is_known_to_seqio_with_its_metrics_and_vocabulary():
    name = "pocket_kinds_which_is"
    assert for_t5x.registered(name) == name
    task = task_of_seqio(name)
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
    mixtures = tensorflow_imports.import_seqio().MixtureRegistry
    names = {task.name for task in mixtures.get("pocket_work").tasks}
    assert names == {"pocket_work_needs", "pocket_work_goes_with"}


def test_a_pattern_is_no_name():
    with pytest.raises(errors.ConfigError, match="one task or mixture"):
        for_t5x.registered("pocket_w*")


def test_the_model_gets_the_vocabulary_of_the_task():
    name = "pocket_kinds_which_is"
    path = pocket.VOCABULARY.path
    for_t5x.registered(name, vocabulary_file=path, extra_ids=100)
    task_vocabulary = task_of_seqio(name).output_features["targets"].vocabulary
    assert for_t5x.seqio_vocabulary(path, 100) == task_vocabulary


def test_a_vocabulary_that_brings_its_sentinels_serves_in_t5xs_gin_files(tmp_path):
    """T5X builds it, as gin/t5x/tasks.gin says, from T5's own file."""
    model_pb2 = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    content = pathlib.Path(pocket.VOCABULARY.path).read_bytes()
    model = model_pb2.ModelProto.FromString(content)
    for index in reversed(range(100)):
        piece = model.pieces.add(piece=f"\u2581<extra_id_{index}>", score=0.0)
        piece.type = model_pb2.ModelProto.SentencePiece.USER_DEFINED
    (tmp_path / "100extra.model").write_bytes(model.SerializeToString())
    vocabularies = []

    with gin.unlock_config():
        gin.clear_config()

        @gin.configurable("t5x_model", module="stand_in")
        def t5x_model(vocabulary):
            vocabularies.append(vocabulary)

        gin.parse_config_files_and_bindings(
            [str(ROOT / "gin/t5x/tasks.gin")],
            [
                "TASK = 'pocket_kinds_which_is'",
                f"VOCABULARY_FILE = '{tmp_path}/100extra.model'",
                "stand_in.t5x_model.vocabulary = %VOCABULARY",
            ],
        )
        t5x_model()
        gin.clear_config()
    assert vocabularies[0].vocab_size == pocket.VOCABULARY.size
    assert vocabularies[0].encode("<extra_id_0>") == [pocket.VOCABULARY.sentinel_id(0)]

"""A base and experts of fresh parameters, and runs with them that fail."""

import dataclasses

import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.cli import gin_flags
from elm_jax.data import sources, tasks, templates
from elm_jax.library import catalogue
from elm_jax.model import config, t5
from elm_jax.peft import bottleneck, expert_parts
from elm_jax.runs import bases, convert, evaluate, library, merge, report, train
from elm_jax.runs import tasks as task_runs
from tasks import pocket
from tests.peft.sample import random_params

RUNS = (train.Train, evaluate.Evaluate, merge.Merge, report.Report, convert.ImportT5X)
RUNS += (library.BuildLibrary, library.RetireExperts, library.Retrieve)
RUNS += (task_runs.ListTasks, task_runs.TrainVocabulary)
SHAPE = config.T5Config(
    vocab_size=pocket.VOCABULARY.size,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
ADAPTER = bottleneck.Bottleneck(reduction_factor=4)


def good_rows(split):
    rows = [{"q": f"Is {n} odd", "a": ("no", "yes")[n % 2]} for n in range(12)]
    return rows if split == "train" else []


def wrong_rows(split):
    return [row | {"a": "perhaps"} for row in good_rows(split)]


def make_task(name, rows, *, jinja="{{q}}? ||| {{a}}"):
    return tasks.Task(
        name=name,
        dataset=name,
        prompt="ask",
        cluster="Questions",
        source=sources.GeneratedRows(rows, "1"),
        template=templates.Template("ask", "1", jinja, "no ||| yes"),
        metrics=("accuracy",),
    )


TASKS = (
    make_task("errors_good", good_rows),
    make_task("errors_no_correct_choice", wrong_rows),
    make_task("errors_no_such_field", good_rows, jinja="{{question}}? ||| {{a}}"),
)


def save_base(folder, seed):
    params = random_params(t5.T5(SHAPE), seed)
    facts = manifest.Manifest(
        name="base",
        kind="base",
        base_name="base",
        base_fingerprint=trees.fingerprint(params),
        model=dataclasses.asdict(SHAPE),
        trainable_pattern=".*",
    )
    experts.save_expert(folder / "base", params, facts)
    return params, facts


def make_experts(path):
    """Makes a base, two dataset experts, a prompt expert and a catalogue of it."""
    params, facts = save_base(path, seed=0)
    for name in ("pocket_topics", "pocket_reviews"):
        info = dataclasses.replace(facts, name=name, kind="dataset", tasks=(name,))
        experts.save_expert(path / "dataset_experts" / name, params, info)
    model = bases.build_model(SHAPE, ADAPTER)
    pattern = expert_parts.trainable_pattern("adapters_and_norms")
    part, _ = trees.split(random_params(model), pattern)
    name = "pocket_kinds_which_is"
    info = dataclasses.replace(facts, name=name, kind="prompt", tasks=(name,))
    info = dataclasses.replace(info, adapter=bases.describe(ADAPTER))
    info = dataclasses.replace(info, trainable_pattern=pattern)
    experts.save_expert(path / "prompt_experts" / name, part, info)
    catalogue.Catalogue(path / "library").add(path / "prompt_experts" / name)


def fail(folder, gin_file, *bindings):
    """Returns the message of the error that a run ends with."""
    with pytest.raises(errors.ElmError) as caught:
        built, bound, operative = gin_flags.build_run(
            RUNS,
            gin_files=[f"gin/{gin_file}.gin"],
            bindings=[f"MODEL_DIR = '{folder}'", *bindings],
        )
        built.start(config=bound, operative_config=operative)
    message = str(caught.value)
    for part in ("Found: ", "Expected: ", "To do: "):
        assert message.count(part) == 1
    partial = [p for p in folder.rglob(".*") if p.name != ".lock"]
    assert not partial
    return "\n".join((message, *getattr(caught.value, "__notes__", ())))

"""What a training of one expert leaves behind, and when it goes on."""

import json
import shutil

import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts
from elm_jax.cli import gin_flags
from elm_jax.data import tasks as registered
from elm_jax.runs import train
from elm_jax.runs.training import fitting, machine, shared_model
from tests.runs.shapes import SHAPE

TASKS = ("pocket_kinds_which_is", "pocket_notes_tell")
MIXTURES = (
    registered.Mixture("trainer_both", TASKS),
    registered.Mixture("trainer_capped", TASKS, caps={"pocket_notes_tell": 9}),
    registered.Mixture("trainer_swapped", TASKS[::-1]),
)
FEW = ("BATCH_SIZE = 8", "options.Batching.num_shapes = 1")
FEW += ("options.Metrics.every_steps = 1", "options.Saving.every_steps = 2")


def build(folder, gin_file, *bindings):
    return gin_flags.build_run(
        [train.Train],
        gin_files=[f"gin/pocket/{gin_file}.gin"],
        bindings=[f"MODEL_DIR = '{folder}'", *FEW, *bindings],
    )


def run(folder, gin_file, *bindings):
    built, bound, operative = build(folder, gin_file, *bindings)
    built.start(config=bound, operative_config=operative)


@pytest.fixture(scope="module", autouse=True)
def mixtures():
    registered.registry.add(*MIXTURES)
    yield
    for mixture in MIXTURES:
        registered.registry.remove(mixture.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    run(
        path,
        "base",
        *SHAPE,
        "TRAIN_STEPS = 5",
        "options.Saving.keep_every_steps = 4",
    )
    return path


@pytest.mark.slow
def test_the_share_of_waiting_for_data_is_in_the_metrics(folder):
    lines = (folder / "work" / "base" / "metrics.jsonl").read_text().splitlines()
    shares = [json.loads(line)["data_wait_share"] for line in lines]
    assert len(shares) == 5
    assert all(0 <= share <= 1 for share in shares)


@pytest.mark.slow
def test_states_to_keep_outlive_the_training(folder):
    states = folder / "work" / "base" / "state"
    assert sorted(path.name for path in states.iterdir()) == ["4", "5"]


BEGUN = ("TRAIN_STEPS = 2", "options.Saving.keep_every_steps = 2")


@pytest.fixture(scope="module")
def begun(folder):
    """A training of two tasks that has a state, a trace and no expert."""
    traced = "options.Metrics.profile_steps = (1, 2)"
    run(folder, "multitask", "MIXTURE_OR_TASK_NAME = 'trainer_both'", *BEGUN, traced)
    shutil.rmtree(folder / "multitask")
    return folder


@pytest.mark.slow
def test_the_steps_asked_for_are_traced(begun):
    profile = begun / "work" / "multitask" / "profile"
    assert len(list(profile.glob("plugins/profile/*/*.xplane.pb"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixture", "binding", "message"),
    [
        ("trainer_both", "TRAIN_STEPS = 4", "train_steps: 2 before, 4 now"),
        ("trainer_both", "LEARNING_RATE = 0.5", "optimizer/learning_rate: 0.001"),
        (
            "trainer_both",
            "train.Train.random_seed = 7",
            "random_seed: 42 before, 7 now",
        ),
        ("trainer_both", "task_data.TaskData.extra_ids = 99", "575 ids, fingerprint"),
        ("trainer_capped", "", "max_examples/pocket_notes_tell: None before, 9 now"),
        ("trainer_swapped", "", "order_of_data"),
    ],
)
def test_what_would_change_the_expert_is_refused_by_name(
    begun, mixture, binding, message
):
    with pytest.raises(errors.CheckpointError) as caught:
        run(
            begun,
            "multitask",
            *BEGUN,
            f"MIXTURE_OR_TASK_NAME = '{mixture}'",
            *filter(None, [binding]),
        )
    assert message in str(caught.value)


@pytest.mark.slow
def test_other_versions_of_packages_are_refused_unless_allowed(begun, tmp_path):
    folder = shutil.copytree(begun, tmp_path / "run")
    path = folder / "work" / "multitask" / "state" / "2" / "config" / "metadata"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"versions": {"elm_jax": "0.0.1"}}))
    mixture = "MIXTURE_OR_TASK_NAME = 'trainer_both'"
    with pytest.raises(
        errors.CheckpointError, match="versions/elm_jax: '0.0.1' before"
    ):
        run(folder, "multitask", mixture, *BEGUN)
    allowed = "options.Saving.resume_changed_config = True"
    run(folder, "multitask", mixture, *BEGUN, allowed)
    assert (folder / "multitask" / "manifest.json").is_file()


@pytest.mark.slow
def test_another_place_or_period_changes_nothing(begun, tmp_path):
    folder = shutil.copytree(begun, tmp_path / "run")
    run(
        folder,
        "multitask",
        "MIXTURE_OR_TASK_NAME = 'trainer_both'",
        *BEGUN,
        "options.Metrics.every_steps = 2",
        f"INITIAL_CHECKPOINT_PATH = '{begun}/base'",
    )
    assert (folder / "multitask" / "manifest.json").is_file()


@pytest.mark.slow
def test_packed_rows_train_an_expert(begun):
    run(
        begun,
        "multitask",
        "MIXTURE_OR_TASK_NAME = 'trainer_both'",
        "TRAIN_STEPS = 2",
        "options.Batching.pack = True",
        "options.Results.expert_name = 'packed'",
    )
    lines = (begun / "work" / "packed" / "metrics.jsonl").read_text().splitlines()
    padded = (begun / "work" / "multitask" / "metrics.jsonl").read_text().splitlines()
    packed, alone = (json.loads(rows[-1]) for rows in (lines, padded))
    # more examples in as many rows
    assert packed["tokens_per_step"] > 1.5 * alone["tokens_per_step"]
    assert 1 >= packed["real_token_share"] > alone["real_token_share"] > 0


@pytest.mark.slow
def test_what_does_not_train_is_kept_in_the_dtype_of_the_computation(folder, capsys):
    built, bound, operative = gin_flags.build_run(
        [train.Train],
        gin_files=["gin/pocket/prompt_experts.gin", "gin/parts/execution.gin"],
        bindings=[
            *(f"MODEL_DIR = '{folder}'", f"MIXTURE_OR_TASK_NAME = '{TASKS[0]}'"),
            *(*FEW, "TRAIN_STEPS = 1", "config.Execution.dtype = 'bfloat16'"),
            "config.Execution.remat = 'fit'",
            "options.Fleet.device_memory_gib = 1.0",
        ],
    )
    built.start(config=bound, operative_config=operative)
    assert "'none' takes" in capsys.readouterr().out
    params, info = experts.load_expert(built.expert_dir(TASKS[0]))
    assert info.training["execution"]["remat"] == "fit"
    assert {leaf.dtype.name for leaf in trees.flatten(params).values()} == {"float32"}
    own_machine = machine.this_machine(1.0)
    spec, _ = fitting.fitted(built.spec(), own_machine, own_machine.num_devices)
    shared = shared_model.on_all_devices(spec)
    dtypes = {n: leaf.dtype.name for n, leaf in trees.flatten(shared.frozen).items()}
    assert dtypes.pop("decoder/logits_dense/kernel") == "float32"
    assert set(dtypes.values()) == {"bfloat16"}


@pytest.mark.slow
def test_a_training_that_leaves_all_open_records_parts_and_goes_on_with_them(
    begun, tmp_path, capsys
):
    folder = shutil.copytree(begun, tmp_path / "run")
    shutil.rmtree(folder / "work" / "multitask")
    mixture = "MIXTURE_OR_TASK_NAME = 'trainer_both'"
    files = ["gin/pocket/multitask.gin", "gin/parts/fit.gin"]

    def train_with(gib, *bindings):
        built, bound, operative = gin_flags.build_run(
            [train.Train],
            gin_files=files,
            bindings=[f"MODEL_DIR = '{folder}'", *FEW, *BEGUN, mixture, *bindings]
            + [f"options.Fleet.device_memory_gib = {gib}", "BATCH_SIZE = 16"],
        )
        built.start(config=bound, operative_config=operative)
        return built

    two = "options.Batching.num_parts = 2"
    train_with(1.0, two, "placement.Placement.axis_rules = 'data'")
    assert "'none' takes" in capsys.readouterr().out
    _, info = experts.load_expert(folder / "multitask")
    assert info.training["num_parts"] == 2
    train_with(1.0)  # finished already, whatever would fit
    assert "finished already: 1 of 1" in capsys.readouterr().out
    shutil.rmtree(folder / "multitask")
    with pytest.raises(
        errors.CheckpointError,
        match="(?s)num_parts: 2 before, 1 now.*Set options.Batching.num_parts = 2,",
    ):
        train_with(1.0)


@pytest.mark.slow
def test_an_expert_that_cannot_go_on_keeps_no_other_from_training(folder):
    """One rule, alone and in a fleet: the error at the end names those that failed."""
    alone = (
        *("options.Fleet.size = 0", "options.Saving.keep_every_steps = 2"),
        *("options.Results.experts_dir = '{MODEL_DIR}/alone'", "TRAIN_STEPS = 2"),
    )
    run(folder, "prompt_experts", *alone, f"MIXTURE_OR_TASK_NAME = '{TASKS[0]}'")
    shutil.rmtree(folder / "alone")
    with pytest.raises(errors.TrainingError, match="1 of 2 experts failed") as caught:
        run(
            folder,
            "prompt_experts",
            *(*alone, f"MIXTURE_OR_TASK_NAME = {TASKS}", "LEARNING_RATE = 0.5"),
        )
    assert f"{TASKS[0]}: " in str(caught.value)
    assert "learning_rate: 0.01 before, 0.5 now" in str(caught.value)
    assert [path.name for path in (folder / "alone").iterdir()] == [TASKS[1]]

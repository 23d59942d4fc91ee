"""Every binary twice at once leaves the files of once, and both end well.

ELM_NUM_PAIRS is how many pairs of each command are tried, 2 if unset.
"""

import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys

import pytest

from elm_jax import trees
from elm_jax.checkpoints import stores, tensors
from elm_jax.cli import selectors
from tests.cli import failing

pytestmark = pytest.mark.slow

NUM_PAIRS = int(os.environ.get("ELM_NUM_PAIRS", "2"))
CACHES_GIN = """
from __gin__ import dynamic_registration
import tasks.pocket
from elm_jax.runs import cache_tasks
from elm_jax.runs import task_data
cache_tasks.CacheTasks:
  model_dir = %MODEL_DIR
  tasks = "pocket_reviews"
  data = @task_data.TaskData()
  num_workers = 2
task_data.TaskData:
  vocabulary_path = "{PACKAGE}/tasks/pocket_world/pocket.model"
  feature_lengths = {"inputs": 48, "targets": 8}
"""
VOCABULARY_GIN = """
from __gin__ import dynamic_registration
import tasks.pocket
from elm_jax.runs import tasks as task_runs
task_runs.TrainVocabulary:
  model_dir = %MODEL_DIR
  tasks = "pocket_reviews"
  vocab_size = 80
"""
ONE = ("--gin.MIXTURE_OR_TASK_NAME=('pocket_reviews_good_or_bad',)",)
TRAIN = (
    *("elm_train", "gin/pocket/prompt_experts.gin", *ONE),
    *("--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=8"),
    *("--gin.options.Batching.num_shapes=1", "--gin.options.Saving.every_steps=1"),
)
EVALUATE = (
    *("elm_eval", "gin/pocket/own_tasks.gin"),
    "--gin.evaluate.Evaluate.tasks='pocket_kinds_which_is'",
    *(f"--gin.evaluate.Evaluate.{n}=8" for n in ("max_examples", "batch_size")),
)
KEYS = "--gin.library.BuildLibrary.num_keys=3"
LIBRARY = ("elm_library", "gin/pocket/library.gin", KEYS)
GROW = ("--gin.EXPERTS={MODEL_DIR}/prompt_experts/*",)
RETIRE = ("--gin.EXPERTS=('pocket_kinds_which_is',)",)
REPORT = ("--gin.report.Report.unseen_tasks='pocket_kinds_which_is'",)
MERGE = ("elm_merge", "gin/pocket/merge.gin")
VOCABULARY = ("elm_tasks", "vocabulary.gin")
EXPORT = ("elm_convert", "gin/t5/export_hf.gin")
IMPORT = (
    *("elm_convert", "gin/t5/import_hf.gin"),
    "--gin.HUGGINGFACE_PATH={MODEL_DIR}/huggingface/base",
    "--gin.convert.ImportHuggingFace.base_name='imported'",
)
# Binary, gin file and flags, by name. Those that compile are few in CI.
QUICK = {
    "merge": MERGE,
    "export": EXPORT,
    "import": IMPORT,
    "retire": ("elm_library", "gin/pocket/retire.gin", *RETIRE),
    "report": ("elm_report", "gin/pocket/report.gin", *REPORT),
    "vocabulary": VOCABULARY,
}
SLOW = {
    "train": TRAIN,
    "evaluate": EVALUATE,
    "library": LIBRARY,
    "grow": ("elm_library", "gin/pocket/grow.gin", KEYS, *GROW),
    "cache": ("elm_tasks", "caches.gin"),
}
# What goes before, and is not there for the others.
BEFORE = {
    "import": (EXPORT,),
    "grow": (LIBRARY,),
    "retire": (LIBRARY,),
    "report": (EVALUATE,),
}
TIMES = re.compile(rb'"(\w*secs\w*|\w*_per_\w+|data_wait_share)": [0-9.e+-]+')


class Server:
    """Starts programs by forking one that has imported what they need."""

    def __init__(self, folder):
        self.model_dir, self._outputs = folder / "run", folder / "outputs"
        self._outputs.mkdir()
        (folder / "caches.gin").write_text(CACHES_GIN)
        (folder / "vocabulary.gin").write_text(VOCABULARY_GIN)
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(selectors.files_root()),
        }
        self._process = subprocess.Popen(
            [sys.executable, pathlib.Path(__file__).with_name("together_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | environment,
        )

    def run(self, *commands, wait_secs=0.0):
        """Runs commands at once; returns their exit statuses and outputs."""
        lines = []
        for number, (binary, gin_file, *flags) in enumerate(commands):
            arguments = [f"--gin_file={gin_file}", f"--gin.MODEL_DIR={self.model_dir}"]
            output = str(self._outputs / str(number))
            lines.append([binary, number * wait_secs, output, *arguments, *flags])
        print(json.dumps(lines), file=self._process.stdin, flush=True)
        statuses = json.loads(self._process.stdout.readline())
        outputs = [pathlib.Path(line[2]) for line in lines]
        texts = [output.read_text("utf-8", "replace") for output in outputs]
        return list(zip(statuses, texts, strict=True))

    def close(self):
        with self._process:
            self._process.stdin.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    forking = Server(tmp_path_factory.mktemp("server"))
    yield forking
    forking.close()


@pytest.fixture(scope="module")
def experts_dir(tmp_path_factory):
    """Random experts, and nothing that a command has made of them."""
    folder = tmp_path_factory.mktemp("made")
    failing.make_experts(folder)
    shutil.rmtree(folder / "library")
    return folder


def succeed(results):
    for status, text in results:
        assert status == 0, text
        assert "Traceback" not in text, text


def start_with(folder, server):
    """Makes the work folder a copy of one, at the same place for every run."""
    shutil.rmtree(server.model_dir, ignore_errors=True)
    shutil.copytree(folder, server.model_dir)


@pytest.fixture(scope="module")
def begin(server, experts_dir, tmp_path_factory):
    """Returns what gives a folder with all that has to be there before a command."""
    folders = {}

    def prepare(name):
        if name not in folders:
            start_with(experts_dir, server)
            for command in BEFORE.get(name, ()):
                succeed(server.run(command))
            folders[name] = tmp_path_factory.mktemp("before") / "run"
            shutil.copytree(server.model_dir, folders[name])
        return folders[name]

    return prepare


def content(folder):
    """Returns what is in a folder by path, times aside; of Orbax's items the arrays.

    The names of their files are random, and the order of rows is that of processes.
    """
    by_path = {}
    items = [path.parent for path in folder.rglob("_METADATA")]
    logs = [*folder.rglob("tensorboard")]  # of names that tell the time
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path in items:
            leaves = stores.open_leaves(stores.as_url(path))
            arrays = {n: tensors.read(leaf) for n, leaf in leaves.items()}
            by_path[name] = trees.fingerprint(trees.unflatten(arrays))
        elif path.is_file() and not {*items, *logs} & {*path.parents}:
            lines = TIMES.sub(b"", path.read_bytes()).split(b"\n")
            by_path[name] = sorted(lines) if path.suffix == ".jsonl" else lines
        elif path.is_dir() and not {*items, *logs} & {*path.parents}:
            by_path[name] = "folder"
    return by_path


def check_pairs(name, command, num_pairs, begin, server):
    folder, rng = begin(name), random.Random(name)
    start_with(folder, server)
    succeed(server.run(command))
    once = content(server.model_dir)
    assert once != content(folder)  # else there is nothing to tear
    for _ in range(num_pairs):
        start_with(folder, server)
        succeed(server.run(command, command, wait_secs=rng.choice((0, 0.05, 0.3))))
        twice = content(server.model_dir)
        assert twice.keys() == once.keys()
        for path, entry in twice.items():
            more, less = (
                [line for line in first if line not in second]
                for first, second in ((entry, once[path]), (once[path], entry))
            )
            assert (path, more, less) == (path, [], [])
            assert entry == once[path]


@pytest.mark.parametrize("name", QUICK)
def test_twice_at_once_leaves_the_files_of_once(name, begin, server):
    check_pairs(name, QUICK[name], NUM_PAIRS, begin, server)


@pytest.mark.parametrize("name", SLOW)
def test_so_do_those_that_compile(name, begin, server):
    check_pairs(name, SLOW[name], max(1, NUM_PAIRS // 2), begin, server)


OTHER = {
    "merge": (MERGE, "--gin.merge.Merge.scale=0.25"),
    "import": (IMPORT, "--gin.convert.ImportHuggingFace.storage_dtype='bfloat16'"),
    "vocabulary": (
        VOCABULARY,
        "--gin.task_runs.TrainVocabulary.vocab_size=90",
    ),
    "train": (TRAIN, "--gin.LEARNING_RATE=0.5"),
}


@pytest.mark.parametrize("name", OTHER)
def test_of_two_recipes_at_once_one_is_made_and_the_other_refused(name, begin, server):
    command, flag = OTHER[name]
    start_with(begin(name), server)
    results = server.run(command, (*command, flag))
    assert sorted(status for status, _ in results) == [0, 1], results
    (refused,) = [text for status, text in results if status]
    assert "Traceback" not in refused
    field = flag.partition("=")[0].rpartition(".")[2].lower()
    assert field in refused
    # Who was first is finished, and who was refused is so again.
    again = [server.run(attempt)[0][0] for attempt in (command, (*command, flag))]
    assert again == [status for status, _ in results]

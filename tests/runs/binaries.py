"""The seven binaries as quick processes on tiny data, and what their files say.

A process starts as a fork of one that has imported all that is slow to import and has
touched no device: a run of a tiny model then takes a second or two.
"""

import hashlib
import importlib
import json
import os
import pathlib
import re
import sys
import time
from typing import NamedTuple

from elm_jax import trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.training import hooks
from tests import forks

SHAPE = {
    **{"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16},
    **{"num_encoder_layers": 1, "num_decoder_layers": 1},
}
TASKS = "('pocket_kinds_which_is', 'pocket_reviews_good_or_bad')"
OWN = "('{MODEL_DIR}/prompt_experts/*',)"
PAIR = (
    "('{MODEL_DIR}/prompt_experts/pocket_kinds_which_is',"
    " '{MODEL_DIR}/prompt_experts/pocket_reviews_good_or_bad')"
)
OFTEN = {
    **{"TRAIN_STEPS": 9, "BATCH_SIZE": 8, "options.Batching.num_shapes": 1},
    **{"options.Saving.every_steps": 2, "options.Metrics.every_steps": 3},
}
CACHE = """
from __gin__ import dynamic_registration

include "gin/parts/suites/pocket.gin"

from elm_jax.runs import cache_tasks
from elm_jax.runs import task_data

cache_tasks.CacheTasks:
  model_dir = %MODEL_DIR
  tasks = %MIXTURE_OR_TASK_NAME
  data = @task_data.TaskData()
  num_workers = 2
"""


class Stage(NamedTuple):
    """A binary's run that needs what the stages before it left."""

    binary: str
    gin_file: str
    bindings: dict[str, object]

    @property
    def name(self):
        return f"{self.binary} {pathlib.Path(self.gin_file).stem}"


STAGES = (
    Stage(
        "elm_train",
        "gin/pocket/base.gin",
        OFTEN | {f"config.T5Config.{name}": value for name, value in SHAPE.items()},
    ),
    Stage("elm_tasks", "cache.gin", {"MIXTURE_OR_TASK_NAME": TASKS}),
    Stage(
        "elm_train",
        "gin/pocket/prompt_experts.gin",
        OFTEN | {"MIXTURE_OR_TASK_NAME": TASKS},
    ),
    Stage(
        "elm_library", "gin/pocket/library.gin", {"library.BuildLibrary.num_keys": 5}
    ),
    Stage(
        "elm_eval",
        "gin/pocket/evaluate.gin",
        {
            "MIXTURE_OR_TASK_NAME": TASKS,
            "evaluate.Evaluate.experts": OWN,
            "evaluate.Evaluate.strategies": "('base', 'retrieved')",
            "evaluate.Evaluate.splits": "('test',)",
            "evaluate.Evaluate.max_examples": 16,
            "evaluate.Evaluate.batch_size": 8,
        },
    ),
    Stage("elm_merge", "gin/pocket/merge.gin", {"merge.Merge.experts": PAIR}),
    Stage("elm_convert", "gin/t5/export_hf.gin", {}),
    Stage(
        "elm_report",
        "gin/pocket/report.gin",
        {
            "report.Report.unseen_tasks": TASKS,
            "report.Report.composed_tasks": "()",
            "report.Report.merged_expert": "''",
            "report.Report.merged_parts": "()",
        },
    ),
)


class Binaries:
    """Starts binaries; a context.

    Args:
      folder: For logs, gin files and compiled programs.
      num_devices: Of each process.
    """

    def __init__(self, folder, *, num_devices=2):
        self._folder, self.log = folder, folder / "log.txt"
        self._environ = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_NUM_CPU_DEVICES": f"{num_devices}",
        }
        self._context = forks.context()
        (folder / "cache.gin").write_text(CACHE)

    def start(self, stage, model_dir):
        """Returns the process of a stage, a group of its own."""
        gin_file = stage.gin_file
        if not (pathlib.Path(__file__).parents[2] / gin_file).is_file():
            gin_file = self._folder / gin_file
        bindings = [f"--gin.{n}={value}" for n, value in stage.bindings.items()]
        return self.start_with(stage.binary, gin_file, model_dir, *bindings)

    def start_with(self, binary, gin_file, model_dir, *flags, outputs=None):
        """Returns the process of a binary, a group of its own.

        `outputs` are the files of its standard output and error, if not `log` is both.
        """
        arguments = [f"--gin_file={gin_file}", f"--gin.MODEL_DIR={model_dir}", *flags]
        outputs = tuple(map(str, outputs or (self.log, self.log)))
        process = self._context.Process(
            target=_run, args=(binary, arguments, outputs, self._environ)
        )
        process.start()
        return process


def _run(binary, arguments, outputs, environ):
    os.setsid()
    forks.seek_less_garbage()
    for number, path in enumerate(outputs, 1):
        with open(path, "a") as file:
            os.dup2(file.fileno(), number)
    import jax

    os.environ |= environ
    for name, value in environ.items():  # JAX has read its environment by now
        kind = type(getattr(jax.config, name.lower()))
        jax.config.update(name.lower(), value if kind is type(None) else kind(value))
    sys.argv = [binary, *arguments]
    if len({*outputs}) == 1:  # others write into it, too
        print(f"\n=== {binary} {arguments[0]}, process {os.getpid()}", flush=True)
    importlib.import_module(f"elm_jax.cli.{binary}").main()


def wait_for_group(pid, *, most_secs=30.0):
    """Waits until no process of a group is left, such as workers of a killed one."""
    until = time.monotonic() + most_secs
    while time.monotonic() < until:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"processes of group {pid} live on")


_OF_ORBAX = ("manifest.ocdbt", "_CHECKPOINT_METADATA", "commit_success.txt")
_RANDOM_NAME = re.compile("[0-9a-f]{32}")


def content(folder):
    """Returns what each file and folder below a MODEL_DIR holds, by relative path.

    It is a hash of the bytes, but for these, which differ from run to run:

    - TensorBoard's event files are left out: each start has its own, with its times;
    - lines of `metrics.jsonl` have no times (`hooks.TIMES`);
    - Orbax's files in a folder `params` have random names, and times: names of 32 hex
      digits, `manifest.ocdbt` and `_CHECKPOINT_METADATA`. The tensors stand for them,
      bit for bit. `commit_success.txt` names the temporary folder.
    """
    by_path = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        in_params = "params" in path.relative_to(folder).parts[:-1]
        if path.parent.name == "tensorboard":
            continue
        if path.is_dir():
            by_path[name] = "folder"
            if path.name == "params" and (path.parent / manifest.FILE_NAME).is_file():
                by_path[name] = trees.fingerprint(experts.load_expert(path.parent)[0])
        elif path.name == "metrics.jsonl":
            rows = map(json.loads, path.read_text().splitlines())
            by_path[name] = [
                {k: v for k, v in row.items() if k not in hooks.TIMES} for row in rows
            ]
        elif not in_params or not (
            _RANDOM_NAME.fullmatch(path.name) or path.name in _OF_ORBAX
        ):
            by_path[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return by_path


def differences(actual, expected):
    """Returns the names of files that differ, one line each."""
    names = sorted(actual.keys() | expected.keys())
    return [
        f"{name}: {actual.get(name, 'missing')} instead of {expected.get(name, 'none')}"
        for name in names
        if actual.get(name) != expected.get(name)
    ]

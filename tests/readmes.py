"""READMEs as programs: their blocks, and a folder in which to run them.

The commands of a README are run by bash, as printed. `elm_train` and its siblings are
small scripts there, which hand their arguments to the test and wait for a status. The
test builds each run from its gin files and flags; with `really=True` it also runs what
the embedded suite can run, made small. `pip` and the tools of launch/test.sh are
replaced too, so that nothing is installed.
"""

import contextlib
import importlib
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from typing import NamedTuple

from tests import forks

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = ("elm_jax", "gin", "launch", "tasks")
READMES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    + [path for room in ROOMS for path in ROOT.glob(f"{room}/**/*.md")]
)
TOOLS = ("python", "pip", "ruff", "basedpyright", "shellcheck", "seqio_cache_tasks")
NEED_MUCH = ("gin/original/", "gin/t5")
"""Beginnings of gin files that need data, downloads or accelerators: never run."""

_FENCE = re.compile(
    r"(?P<before>[^\n]*)\n\n?```(?P<language>\w*)\n(?P<code>.*?)^```", re.DOTALL | re.M
)
_TRAINED = "('pocket_topics_about', 'pocket_reviews_good_or_bad')"
_FEW_STEPS = {"TRAIN_STEPS": "2", "BATCH_SIZE": "8", "options.Batching.num_shapes": "1"}


class Block(NamedTuple):
    """A fenced block.

    Attributes:
      language: Such as `bash`.
      code: Its lines.
      file: The file that it is the content of, if the line before it ends with the
        file's name in backticks and a colon.
    """

    language: str
    code: str
    file: str


def table_after(text, title):
    """Returns the rows of the first table below a title, as lists of cells."""
    lines = text.partition(title)[2].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|---"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 1 :])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def blocks(readme):
    """Returns the fenced blocks of a README, in order."""
    all_blocks = []
    for match in _FENCE.finditer(readme.read_text("utf-8")):
        named = re.search(r"`([\w./]+\.\w+)`:$", match["before"])
        all_blocks.append(
            Block(match["language"], match["code"], named[1] if named else "")
        )
    return all_blocks


_SHAPE = {
    f"config.T5Config.{name}": value
    for name, value in {
        **{"emb_dim": "32", "num_heads": "2", "head_dim": "8", "mlp_dim": "16"},
        **{"num_encoder_layers": "1", "num_decoder_layers": "1"},
    }.items()
}
_ONE_DATASET = {"MIXTURE_OR_TASK_NAME": "pocket_causes"}
_TASKS = {"MIXTURE_OR_TASK_NAME": _TRAINED}
# What makes the runs of the embedded suite small; tasks only where none are given.
_SMALL = {
    "base": _SHAPE,
    "library": {"library.BuildLibrary.num_keys": "5"},
    "grow": {"library.BuildLibrary.num_keys": "5"},
    "retire": {"EXPERTS": "('pocket_topics_about',)"},
    **dict.fromkeys(("prompt_experts", "dataset_experts"), _TASKS),
    **dict.fromkeys(("examples", "retrieve"), _ONE_DATASET),
    "merge_by_data": {"measuring.Measuring.num_rows": "8"},
    "merge_search": {"search_rows.Rows.num_rows": "8"},
    "evaluate": _ONE_DATASET
    | {
        "evaluate.Evaluate.max_examples": "8",
        "evaluate.Evaluate.batch_size": "8",
        "evaluate.Evaluate.experts": "()",
        "evaluate.Evaluate.strategies": "('base', 'retrieved')",
        "evaluate.Evaluate.splits": "('test',)",
    },
}

_SHIM = """#!/usr/bin/env bash
# Hands a command to the test, and ends as the test says. One at a time: scripts have
# commands that run side by side.
until mkdir WAITING.lock 2>/dev/null; do sleep 0.02; done
trap 'rmdir WAITING.lock' EXIT
{ printf '%s\\0' "$(basename "$0")" "$PWD" "$@"; } > WAITING.part.$$
cat WAITING.part.$$ > WAITING; rm WAITING.part.$$
IFS= read -r status < ANSWER
cat OUTPUT
exit "$status"
"""


class World:
    """A copy of what a clone has, with programs that a test answers.

    Args:
      folder: An empty one.
      really: Whether commands of the embedded suite run; else all are only built.
    """

    def __init__(self, folder, *, really):
        self.folder, self._really = folder, really
        self.num_commands = 0
        self.failures = []
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ROOMS:
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for path in [ROOT / "pyproject.toml", *ROOT.glob("*.lock"), *ROOT.glob("*.md")]:
            shutil.copy(path, folder)
        shutil.copy(ROOT / "setup.py", folder)
        self._waiting, self._answer = folder / "waiting", folder / "answer"
        os.mkfifo(self._waiting)
        os.mkfifo(self._answer)
        self._output = folder / "output"
        self._add_programs(folder / ".venv" / "bin")
        self._context = forks.context()

    def _add_programs(self, folder):
        folder.mkdir(parents=True)
        places = {"WAITING": self._waiting, "ANSWER": self._answer}
        text = _SHIM
        for word, place in {**places, "OUTPUT": self._output}.items():
            text = re.sub(rf"\b{word}\b", str(place), text)
        for name in (*(f"elm_{name}" for name in forks.BINARIES), *TOOLS):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "activate").write_text("")
        # Installs nothing, but takes the arguments of the real one only.
        (self.folder / "launch" / "install.sh").write_text(
            f'set -e\nfor word; do grep -q -e "$word" "{ROOT}/launch/install.sh"; done'
        )

    def write_files(self, readme):
        """Writes the files whose content a README prints."""
        for block in blocks(readme):
            if block.file:
                path = self.folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.code)

    def run(self, code):
        """Runs lines of bash in the folder; returns the finished process."""
        # Its thirteen commands are those of tests/runs/end_to_end_test.py.
        long = ("launch/quickstart.sh", "launch/study.sh")
        self._runs = self._really and not any(script in code for script in long)
        programs = self.folder / ".venv" / "bin"
        with self._answering():
            return subprocess.run(
                ["bash", "-euc", code],
                cwd=self.folder,
                env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=False,
                timeout=1800,
            )

    def run_python(self, code):
        """Runs a Python program in the folder; returns its status and output."""
        process = self._context.Process(
            target=_run_code, args=(code, str(self.folder), str(self._output))
        )
        process.start()
        process.join()
        return process.exitcode, self._output.read_text()

    @contextlib.contextmanager
    def _answering(self):
        thread = threading.Thread(target=self._answer_all, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._waiting.write_bytes(b"\0\0")  # no program: nothing more comes
            thread.join(60)

    def _answer_all(self):
        while words := self._waiting.read_bytes().split(b"\0")[:-1]:
            program, folder, *arguments = [word.decode() for word in words]
            if not program:
                return
            self.num_commands += 1
            status = self._do(program, folder, arguments)
            if status:
                self.failures.append(" ".join([program, *arguments]))
            self._answer.write_text(f"{status}\n")

    def _do(self, program, folder, arguments):
        self._output.write_text("")
        if not program.startswith("elm_"):
            return _check_tool(program, arguments, self.folder, self._output)
        process = self._context.Process(
            target=_run_binary,
            args=(program, arguments, folder, str(self._output), self._runs),
        )
        process.start()
        process.join()
        return process.exitcode


def _enter(folder, output):
    os.chdir(folder)
    forks.seek_less_garbage()
    sys.stdout.flush()
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _run_code(code, folder, output):
    _enter(folder, output)
    exec(code, {"__name__": "printed"})


def _run_binary(program, arguments, folder, output, really):
    """In a process of its own: builds a run, and runs it where that is possible."""
    _enter(folder, output)
    gin_files = re.findall(r"--gin_file=(\S+)", " ".join(arguments))
    is_light = not any(name.startswith(NEED_MUCH) for name in gin_files)
    if really and is_light and "--help" not in arguments:
        bound_names = {name for name in map(_bound_name, arguments) if name}
        small = dict(_FEW_STEPS) if program == "elm_train" else {}
        for name in gin_files:
            small |= _SMALL.get(pathlib.Path(name).stem, {})
        arguments = [
            f"--gin.{n}={v}" for n, v in small.items() if n not in bound_names
        ] + [*arguments]
    elif "--help" not in arguments:
        arguments = [*arguments, "--readme_build"]
    sys.argv = [program, *arguments]
    module = importlib.import_module(f"elm_jax.cli.{program}")
    if arguments[-1] == "--readme_build":
        _build(module, arguments[:-1])
    else:
        module.main()


def _build(module, arguments):
    """Builds a run from flags and gin files, as the binary does, and runs nothing."""
    from absl import flags

    from elm_jax.cli import compile_flag, gin_flags

    chosen = flags.FLAGS(gin_flags.rewrite_arguments(["elm", *arguments]))
    assert chosen == ["elm"], chosen
    gin_flags.build_run(
        module.runs(),
        gin_files=flags.FLAGS.gin_file,
        bindings=flags.FLAGS.gin_bindings,
        also=compile_flag.shape_type(),
        search_paths=flags.FLAGS.gin_search_paths,
    )


def _bound_name(argument):
    match = re.match(r"--gin\.([^=]+)=", argument)
    return match[1] if match else ""


def _check_tool(program, arguments, folder, output):
    """Returns 0 if a command of another program can be as it is printed."""
    is_short = arguments[:1] == ["-c"]  # a few lines of a script
    if program == "python" and (is_short or "launch/ray_train.py" in arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        output.write_text(done.stdout + done.stderr)
        return done.returncode
    if program == "python" and arguments[0].endswith(".py"):
        script = ROOT / arguments[0]
        text = script.read_text("utf-8") if script.is_file() else ""
        names = [word.partition("=")[0] for word in arguments if word[:2] == "--"]
        return int(not text or not all(name in text for name in names))
    if program == "pip":
        extras = set(re.findall(r'^        "([\w-]+)": \[', _setup_text(), re.M))
        named = re.findall(r"\[([\w,-]+)\]", " ".join(arguments))
        return int(not {x for text in named for x in text.split(",")} <= extras)
    return 0


def _setup_text():
    return (ROOT / "setup.py").read_text("utf-8")

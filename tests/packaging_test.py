"""Files about the project agree with the project."""

import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

import pytest
import yaml
from packaging import requirements

import elm_jax

ROOT = pathlib.Path(__file__).parents[1]


def read(path):
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def test_one_version_is_told_everywhere():
    assert importlib.metadata.version("elm_jax") == elm_jax.__version__
    assert str(read("CITATION.cff")["version"]) == elm_jax.__version__


def test_the_workflow_runs_what_ci_runs_and_the_fast_tests_on_the_newest_python():
    jobs = read(".github/workflows/ci.yml")["jobs"]
    commands = {
        name: [step["run"] for step in job["steps"] if "run" in step]
        for name, job in jobs.items()
    }
    assert commands == {
        "oldest": ["bash .ci/run"],
        "newest": ["bash launch/test.sh --fast"],
        "readmes": [
            "bash launch/install.sh",
            ".venv/bin/python -m pytest tests/readmes_test.py",
        ],
    }
    assert jobs["readmes"]["if"] == "github.event_name == 'schedule'"
    assert jobs["readmes"]["steps"][-1]["env"] == {"ELM_READMES": "all"}


def test_hooks_before_a_commit_are_the_checks_of_ci():
    (local,) = read(".pre-commit-config.yaml")["repos"]
    hooks = {hook["entry"].split()[0] for hook in local["hooks"]}
    script = (ROOT / "launch/test.sh").read_text("utf-8")
    checks = re.findall(r"^(\.venv/bin/\S+)", script, re.MULTILINE)
    assert hooks == set(checks)


@pytest.mark.parametrize("form", ["failure", "wish", "wrong_number"])
def test_forms_for_issues_ask_one_thing_at_least(form):
    content = read(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert {"name", "description", "body"} <= content.keys()
    assert any(part.get("validations", {}).get("required") for part in content["body"])


def parts_of_lock(text):
    """Names of packages by the title of their part."""
    parts, title = {}, ""
    for line in text.splitlines()[1:]:
        if line.startswith("# For "):
            title = line
            parts[title] = []
        else:
            parts[title].append(line.partition("==")[0])
    return parts


def test_a_lock_holds_what_is_needed_and_tells_parts_apart():
    is_oldest = sys.version_info < (3, 12)
    lock = ROOT / ("requirements.lock" if is_oldest else "requirements-newest.lock")
    printed = subprocess.run(
        [sys.executable, ROOT / "launch/lock.py"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    assert parts_of_lock(lock.read_text("utf-8")) == parts_of_lock(printed)


def test_both_locks_name_the_same_packages_of_our_own_choice():
    locks = [
        parts_of_lock((ROOT / name).read_text("utf-8"))
        for name in ("requirements.lock", "requirements-newest.lock")
    ]
    direct = {
        re.split(r"[\[<>=!; ]", line)[0].lower().replace("_", "-")
        for line in importlib.metadata.requires("elm_jax") or ()
        if "extra" not in line
    }
    for parts in locks:
        assert direct <= {name for names in parts.values() for name in names}
        assert "tensorflow-cpu" not in parts["# For runs:"]
    assert [*locks[0]] == [*locks[1]] == ["# For runs:", "# For SeqIO:", "# For tests:"]


@pytest.fixture(scope="module")
def asked_for():
    """What setup.py asks for, tests included, also if an older one was installed."""
    code = (
        "import json, setuptools\n"
        "from distutils import core\n"
        "setup = core.run_setup('setup.py', stop_after='init')\n"
        "print(json.dumps([*setup.install_requires, *setup.extras_require['test']]))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    return [requirements.Requirement(line) for line in json.loads(done.stdout)]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-newest.lock"])
def test_pins_lie_in_the_ranges_that_an_installation_without_a_lock_takes(
    asked_for, name
):
    lines = (ROOT / name).read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert len(asked_for) > 25
    outside = {
        str(requirement): pins.get(package)
        for requirement in asked_for
        if (package := re.sub(r"[-_.]+", "-", requirement.name).lower()) not in pins
        or not requirement.specifier.contains(pins[package])
    }
    assert outside == {}


# Run where only the packages can be imported that `--without_tensorflow` installs.
WITH_FEW_PACKAGES = """
import importlib, importlib.metadata as m, pathlib, pkgutil, re, sys
lock = pathlib.Path(sys.argv[1]).read_text().partition("# For SeqIO:")[0]
norm = lambda name: re.sub(r"[-_.]+", "-", name).lower()
pinned = {line.partition("==")[0] for line in lock.splitlines() if "minilm" not in line}
top = {t for t, owners in m.packages_distributions().items()
       if not {"elm-jax", *pinned} & {norm(o) for o in owners}}
class Without:
    def __init__(self, finder):
        self._finder = finder
    def __getattr__(self, name):
        return getattr(self._finder, name)
    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in top
        return None if hidden else self._finder.find_spec(name, path, target)
sys.meta_path[:] = map(Without, sys.meta_path)
"""
OLDEST = sys.version_info < (3, 12)
LOCK = "requirements.lock" if OLDEST else "requirements-newest.lock"


def run_with_few_packages(code, *arguments):
    command = [sys.executable, "-c", WITH_FEW_PACKAGES + code, LOCK, *arguments]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    return done.stdout


@pytest.mark.slow
def test_what_a_run_needs_brings_neither_tensorflow_nor_seqio():
    run_with_few_packages("""
import elm_jax.runs, elm_jax.cli
for package in (elm_jax.runs, elm_jax.cli):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
import tasks.pocket, tasks.original, tasks.public_qa
""")


# Tokens of a task, a training, a merge and scores, as numbers that JSON can hold.
WORK = """
import json, sys
import elm_jax
from elm_jax.data import cache, tasks
from tasks import pocket

folder, made = sys.argv[-2:]
dataset = cache.open_cache(
    "pocket_topics_about",
    "validation",
    vocabulary=pocket.VOCABULARY,
    features=tasks.Features(inputs_length=128, targets_length=32),
    data_options=tasks.DataOptions(cache_dir=f"{folder}/cache"),
)
base = elm_jax.Base.load(f"{made}/base")
model = pocket.VOCABULARY.path
row = {"inputs": "They fit well. Good?", "targets": "yes", "choices": ["yes", "no"]}
first, second = (
    elm_jax.train(base, [row], name=name, steps=2, seed=seed, vocabulary=model)
    for seed, name in enumerate(("first", "second"))
)
both = elm_jax.merge([first, second], base, name="both")
scorer = elm_jax.Model(base, both, vocabulary=model)
scores = scorer.score(row["inputs"], row["choices"])
print(json.dumps([dataset.fingerprint, [float(score) for score in scores]]))
"""


@pytest.mark.slow
def test_few_packages_give_the_tokens_and_scores_of_all(tmp_path):
    release = str(ROOT / "tests/runs/release_0_1")
    few, every = str(tmp_path / "few"), str(tmp_path / "every")
    printed = run_with_few_packages(WORK, few, release).splitlines()[-1]
    command = [sys.executable, "-c", WORK, every, release]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert json.loads(printed) == json.loads(done.stdout.splitlines()[-1])

"""Files about the project agree with the project."""

import importlib.metadata
import pathlib
import re

import pytest
import yaml

import elm_jax

ROOT = pathlib.Path(__file__).parents[1]


def read(path):
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def test_one_version_is_told_everywhere():
    assert importlib.metadata.version("elm_jax") == elm_jax.__version__
    assert str(read("CITATION.cff")["version"]) == elm_jax.__version__


def test_the_workflow_runs_what_ci_runs():
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]


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

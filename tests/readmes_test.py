"""Every command and every Python block of every README works as it is printed."""

import json
import os
import re

import pytest

from tests import readmes


def of_readmes(chosen):
    return pytest.mark.parametrize(
        "readme", chosen, ids=lambda path: str(path.relative_to(readmes.ROOT))
    )


ALL = of_readmes(readmes.READMES)


def chosen(*names):
    return of_readmes(
        [
            readme
            for readme in readmes.READMES
            if os.environ.get("ELM_READMES") == "all"
            or readme.parent == readmes.ROOT
            or readme.parent.name in names
        ]
    )


# Those whose commands run, not only build: ELM_READMES=all for all of them.
RUN = chosen("merging", "peft")
RUN_PYTHON = chosen("merging", "peft", "evaluation", "routing", "tasks")

QUICKSTART = """
run() { "$1" --gin_file="gin/pocket/$2.gin" --gin.MODEL_DIR=runs/pocket; }
run elm_train base
run elm_train prompt_experts
run elm_library library
run elm_eval evaluate
"""


def commands(readme):
    return [block.code for block in readmes.blocks(readme) if block.language == "bash"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A clone in which every command is understood, and none is run."""
    return readmes.World(tmp_path_factory.mktemp("built"), really=False)


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    """A clone in which steps of the quickstart have run, on a tiny model."""
    world = readmes.World(tmp_path_factory.mktemp("pocket"), really=True)
    done = world.run(QUICKSTART)
    assert done.returncode == 0, (world.failures, done.stdout, done.stderr)
    return world


@pytest.mark.slow
@ALL
def test_every_command_of_a_readme_is_understood(readme, built):
    built.write_files(readme)
    built.failures.clear()
    for code in commands(readme):
        done = built.run(code)
        assert done.returncode == 0, (code, built.failures, done.stdout, done.stderr)
        assert not built.failures, done.stdout


@pytest.mark.parametrize("script", ["merging_study.sh", "routers_study.sh"])
def test_every_command_of_a_study_is_understood(script, built):
    before = built.num_commands
    votes = [["pocket_work_needs", 23], ["pocket_topics_topic", 5]]
    votes_row = {"task": "pocket_endings_what_next", "votes": votes}
    study = built.folder / "runs" / "study"
    study.mkdir(parents=True, exist_ok=True)
    for votes_of in ("votes_merging", "votes_merging_lora"):
        (study / f"{votes_of}.jsonl").write_text(json.dumps(votes_row) + "\n")
    built.failures.clear()
    done = built.run(f"SEEDS=42 bash launch/{script}")
    assert done.returncode == 0, (built.failures, done.stdout, done.stderr)
    assert not built.failures, done.stdout
    assert built.num_commands - before >= 9


def test_a_misspelt_binding_of_a_readme_is_found(built):
    built.run("elm_train --gin_file=gin/pocket/base.gin --gin.MODEL_DIRR=runs/pocket")
    assert len(built.failures) == 1
    built.failures.clear()


@pytest.mark.slow
@RUN
def test_the_commands_on_the_embedded_suite_run(readme, pocket):
    pocket.write_files(readme)
    for code in commands(readme):
        done = pocket.run(code)
        assert done.returncode == 0, (code, pocket.failures, done.stdout, done.stderr)


@ALL
def test_the_links_of_a_readme_lead_somewhere(readme):
    for link in re.findall(r"\]\(([^)]+)\)", readme.read_text("utf-8")):
        if not link.startswith("https://"):
            name, _, title = link.partition("#")
            path = (readme.parent / name) if name else readme
            assert path.exists(), link
            assert not title or title in titles(path), link


def titles(path):
    """The anchors of a Markdown file's titles, as GitHub makes them."""
    lines = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in lines}


@pytest.mark.slow
@RUN_PYTHON
def test_the_python_of_a_readme_runs(readme, pocket):
    pocket.write_files(readme)
    for block in readmes.blocks(readme):
        # Those for transformers are run by tests in checkpoints/, where torch is.
        if block.language == "python" and "import transformers" not in block.code:
            status, output = pocket.run_python(block.code)
            assert status == 0, (block.code, output)


def test_the_files_that_the_rules_for_contributors_name_exist():
    text = (readmes.ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = re.findall(r"`([\w/]+\.(?:py|txt|sh))`", text)
    assert len(named) > 40
    folders = ("", "elm_jax", "tests")
    for name in named:
        assert any((readmes.ROOT / folder / name).is_file() for folder in folders), name

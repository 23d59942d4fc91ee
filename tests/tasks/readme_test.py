"""The README of tasks/: its code runs, its table has every difference of protocols."""

import pathlib
import re
import subprocess
import sys

from elm_jax.data import tasks
from tasks import bigbench, compositional, generative, own, t0

README = (pathlib.Path(t0.__file__).parent / "README.md").read_text("utf-8")
SUITES = (bigbench, compositional, generative, own, t0)  # for what they register


def test_its_call_registers_a_template_and_a_function(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code += "\nfor name in ('shoes_good_or_bad', 'shoes_ask'):"
    code += "\n    assert tasks.registry.task(name).cluster == 'Sentiment'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_its_mixtures_and_modules_exist():
    table = README[: README.index("## A task of your own")]
    folder = pathlib.Path(t0.__file__).parent
    assert all((folder / name).is_file() for name in re.findall(r"`(\w+\.py)`", table))
    for name in re.findall(r"`((?:elm|t0|own|bigbench|cluster)_?\w*)`", table):
        assert isinstance(tasks.registry.get(name), tasks.Mixture), name


def test_the_table_names_every_dataset_whose_rows_differ():
    table = README[README.index("## What") : README.index("## BIG-bench")]
    named = set(re.findall(r"`([\w.]+)`", table))
    differs = set()
    # BIG-bench names its parts apart for every dataset; three of them differ.
    for suite in (compositional, generative, own, t0):
        for task in suite.TASKS:
            for split, part in task.splits.items():
                ours, _, protocol = split.partition("@")
                # The caps and the 300 rows of all training datasets are a row each.
                drawn = re.fullmatch(r"\w+\[:\d+\]~42", part)
                if protocol and part != task.splits[ours] and not drawn:
                    differs.add(task.dataset.removesuffix("_original"))
    assert {"wiki_hop", "gigaword", "covid_qa", "esnli"} <= differs
    assert differs <= named

"""Which expert is a task's own is told by its manifest."""

import numpy as np
import pytest

from elm_jax.checkpoints import manifest
from tests.runs.reported import TASKS, line, numbers, record, run

pytestmark = pytest.mark.usefixtures("toy_tasks")


def test_the_only_expert_of_a_kind_is_a_tasks_own_if_its_manifest_says_so(tmp_path):
    rng = np.random.default_rng(3)
    record(tmp_path, "base", 0.5, rng, kind="base")
    for name, tasks in (("one", TASKS[:1]), ("other", ("else",))):
        info = manifest.Manifest(
            name=name,
            kind="prompt",
            base_name="base",
            base_fingerprint="0123",
            model={},
            trainable_pattern="",
            tasks=tasks,
        )
        (tmp_path / "experts" / name).mkdir(parents=True)
        manifest.write_manifest(tmp_path / "experts" / name, info)
        record(tmp_path, name, 0.6, rng, source=f"experts/{name}")
        path = tmp_path / "results.jsonl"
        text = path.read_text().replace(
            f'"expert_fingerprint": "{name}"',
            f'"expert_fingerprint": "{info.fingerprint}"',
        )
        path.write_text(text)
        text = run(tmp_path, unseen_tasks=TASKS[2:], seen_tasks=TASKS[:2])
        part = text[text.index("Held-in and held-out") :]
        # Of the first task there is an own expert, of the second one never.
        assert numbers(line(part, "own prompt expert"))[2][0] == 1
    record(tmp_path, TASKS[1], 0.6, rng)  # its folder is gone, and its name tells
    text = run(tmp_path, unseen_tasks=TASKS[2:], seen_tasks=TASKS[:2])
    part = text[text.index("Held-in and held-out") :]
    assert numbers(line(part, "own prompt expert"))[2][0] == 2

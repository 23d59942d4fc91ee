"""Merges whose coefficients are searched for on rows of toy tasks."""

from elm_jax.merging import task_arithmetic
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import merge, search_rows
from tests.runs import scored

TASKS = ("twice_ask", "signs_ask")
ROWS = search_rows.Rows(tasks=TASKS, batch_size=8)
SUM: MergeMethod = task_arithmetic.TaskArithmetic()


def search_of(folder, kind, search, name, method: MergeMethod = SUM):
    return merge.Merge(
        model_dir=str(folder),
        experts=(f"{{MODEL_DIR}}/{kind}/*",),
        expert_name=name,
        initial_checkpoint_path="{MODEL_DIR}/base",
        method=method,
        search=search,
        data=scored.make_data(),
    )

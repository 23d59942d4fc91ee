"""The six datasets of the paper that the project was tested on in their own files.

DREAM, CoS-E v1.11, CommonsenseQA, Cosmos QA, QuAIL and Rotten Tomatoes, out of the
table that `tasks.t0` registers. The mixtures `dream`, `cos_e_v1.11` and so on hold all
prompts of one dataset. `author_files` says what their files determine.
"""

from collections.abc import Mapping

from elm_jax.data import tasks
from tasks import t0

DATASETS = (
    *("dream", "cos_e_v1.11", "commonsense_qa", "cosmos_qa", "quail"),
    "rotten_tomatoes",
)

TASKS: Mapping[str, list[tasks.Task]] = {
    name: [task for task in t0.TASKS if task.dataset == name] for name in DATASETS
}

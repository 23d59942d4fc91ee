"""What is measured with `toy_experts`, and merges by it, for several test modules."""

from elm_jax import paths
from elm_jax.runs import loaded, measured_sums, measuring, merge
from tests.runs import scored

SETTINGS = measuring.Measuring(num_rows=5, num_positions=20, batch_size=2)


def split_of(folder, task):
    """Returns the rows of training of a task."""
    place = {"{MODEL_DIR}": f"{folder}"}
    return scored.make_data().opened(lambda t: paths.fill(t, place)).open(task, "train")


def expert_of(folder, kind, batch_size=3, task="twice_ask", number=2):
    """Returns an expert of a kind with all rows of a task, to be measured."""
    dataset = split_of(folder, task)
    return measured_sums.Measured(
        loaded.Expert.load(folder / kind / f"{kind}_{number}"),
        loaded.Base.load(folder / "base"),
        [dataset[row] for row in range(len(dataset))],
        batch_size,
    )


def merge_by(folder, kind, method, **changes):
    """Returns a merge of all experts of a kind by a method with data."""
    fields = {
        "model_dir": str(folder),
        "experts": (f"{{MODEL_DIR}}/{kind}/*",),
        "expert_name": f"{kind}_{method.name}",
        "initial_checkpoint_path": "{MODEL_DIR}/base",
        "method": method,
        "measuring": SETTINGS,
        "data": scored.make_data(),
    }
    return merge.Merge(**(fields | changes))

"""The settings that shape an expert, to see whether a run is still the same."""

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from elm_jax.runs import bases, task_data

if TYPE_CHECKING:
    from elm_jax.runs import train

# Fields of a run that shape no bit of an expert, or do so by what is added below.
MAY_CHANGE = frozenset(
    (
        *("model_dir", "experts_dir", "library_dir", "publish_url", "expert_name"),
        *("tasks", "data", "shard", "initial_checkpoint_path"),
        *("save_every_steps", "keep_last", "keep_every_steps", "stop_grace_secs"),
        "placement",  # where it is computed
        *("log_every_steps", "profile_steps", "resume_changed_config"),
        *("per_expert", "fleet_size", "fleet_lanes", "device_memory_gib"),
    )
)


def settings(run: "train.Train") -> dict[str, Any]:
    """Returns the settings of one expert by name, without those of its data.

    Args:
      run: With the expert's own settings (`Train.of_expert`).

    Raises:
      CheckpointError: The base's manifest cannot be read.
    """
    fields = dataclasses.asdict(run)
    kept = {name: fields[name] for name in fields if name not in MAY_CHANGE}
    kept["optimizer_kind"] = type(run.optimizer).__name__
    kept["adapter_kind"] = type(run.adapter).__name__
    kept["model"] = dataclasses.asdict(run.model_config())
    if run.initial_checkpoint_path:
        folder = run.path(run.initial_checkpoint_path)
        kept["base_fingerprint"] = bases.read_fingerprint(folder)
    return json.loads(json.dumps(kept))


def of_tokens(run: "train.Train", data: task_data.OpenedData) -> dict[str, Any]:
    """Returns what shaped an expert's tokens, beside its rows, for its manifest."""
    return {"tokens": run.data.settings(data.vocabulary.fingerprint)}

"""Where an expert's states and metrics lie while it trains."""

import hashlib
import os
import pathlib

_MOST_BYTES = 200


def of_expert(
    model_dir: pathlib.Path, experts_dir: pathlib.Path, name: str
) -> pathlib.Path:
    """Returns `<model_dir>/work/<folder of the experts>/<name>`.

    Each `experts_dir` has a folder of its own there, so that two experts of one name,
    such as a LoRA and a prompt expert of a task, share none. One outside of
    `model_dir` goes by its last name and a hash of its path.

    >>> print(of_expert(pathlib.Path("/m"), pathlib.Path("/m/lora"), "dream"))
    /m/work/lora/dream

    Args:
      model_dir: The run's work folder, absolute.
      experts_dir: Where the finished expert goes, absolute.
      name: The expert's name.
    """
    if experts_dir.is_relative_to(model_dir):
        owner = experts_dir.relative_to(model_dir)
    else:
        digest = hashlib.sha256(str(experts_dir).encode()).hexdigest()[:8]
        # The longest names have no room for a hash.
        last = os.fsencode(experts_dir.name)[:_MOST_BYTES].decode("utf-8", "ignore")
        owner = pathlib.Path(f"{last}-{digest}")
    return model_dir / "work" / owner / name

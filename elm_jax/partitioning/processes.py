"""One program on many hosts: JAX's own runtime."""

import jax

from elm_jax import errors


def start(
    *,
    coordinator_address: str = "",
    num_processes: int = 1,
    process_id: int = 0,
    on_cluster: bool = False,
) -> None:
    """Joins this process to the others, before any device is touched.

    Does nothing for one process, which needs no coordinator.

    Args:
      coordinator_address: `host:port` of process 0, the same in every process.
      num_processes: How many processes there are.
      process_id: Which one this is, from 0.
      on_cluster: Whether TPU VM, SLURM or Open MPI tell JAX all of this instead.

    Raises:
      ConfigError: The three do not fit together.
    """
    if on_cluster:
        jax.distributed.initialize()
        return
    is_alone = num_processes == 1 and process_id == 0 and not coordinator_address
    if is_alone:
        return
    if not coordinator_address or not 0 <= process_id < num_processes:
        raise errors.ConfigError(
            errors.explain(
                found=f"process_id = {process_id} of num_processes = {num_processes}"
                f" with coordinator_address = {coordinator_address!r}",
                expected="an id below the number, and the address of process 0",
                do="Give all three to every process, or on_cluster = True",
            )
        )
    jax.distributed.initialize(
        coordinator_address=coordinator_address,
        num_processes=num_processes,
        process_id=process_id,
    )

"""How one of several joined processes reads and writes by itself with Orbax.

Orbax lets the first process write arrays of numpy, and refuses arrays that lie on one
process's devices. It does write each process's parts of arrays that all share, and need
not be told that those of others differ.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_handlers = ocp.type_handlers


def options() -> ocp.options.MultiprocessingOptions:
    """Returns what lets Orbax work by itself here, whatever other processes do."""
    process_index = jax.process_index()
    if process_index and not isinstance(
        _handlers.get_type_handler(np.ndarray), _AnyProcess
    ):
        _handlers.register_type_handler(np.ndarray, _AnyProcess(), override=True)
    return ocp.options.MultiprocessingOptions(
        primary_host=process_index, active_processes={process_index}
    )


class _AnyProcess(_handlers.NumpyHandler):
    """Writes arrays of numpy from whatever process has them."""

    def __init__(self) -> None:
        super().__init__()
        self._writer = _handlers.ArrayHandler(
            primary_host=None,
            replica_id=None,
            use_replica_parallel=False,
            enable_write_sharding_file=False,
        )

    async def serialize(
        self, values: Sequence[np.ndarray], infos: Any, args: Any = None
    ) -> Any:
        """Begins to write; the rest, and reading, is as in any process."""
        return await self._writer.serialize([*map(_share, values)], infos, args)


def _share(value: np.ndarray) -> jax.Array:
    """Returns an array that each process has whole, on one device of its own."""
    first_devices = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.asarray([*first_devices.values()]), ("process",))
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.make_array_from_callback(value.shape, whole, value.__getitem__)

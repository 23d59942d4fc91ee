"""A small training by several processes, for tests that kill one of them.

Each process has some virtual devices, and all of them split batch and parameters.
Prints `saved N` after each save, and at the end the bits of the final state.
"""

import hashlib

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from elm_jax import trees
from elm_jax.checkpoints import train_state
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import processes
from elm_jax.training import agreement, hooks, loop, optimizers, signals, state, writers
from tests.training import toy

NUM_STEPS, SAVE_STEPS, LOG_STEPS, NUM_ROWS = 24, 3, 4, 8
# A large epsilon, or Adam makes large steps of rounding errors.
OPTIMIZER = optimizers.AdamW(learning_rate=0.1, eps=1e-3)


class TalkingStore(train_state.TrainStateStore):
    def save(self, step, state, sums):
        super().save(step, state, sums)
        self.wait()
        print(f"saved {step}", flush=True)


def place(tree, mesh):
    """Splits the width of every kernel, as the rules `fsdp` would."""

    def put(leaf):
        spec = PartitionSpec(None, "fsdp") if leaf.ndim == 3 else PartitionSpec()
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

    return jax.tree.map(put, tree)


def batch_at(step, mesh):
    """This process's rows of the batch, on its devices."""
    index, count = meshes.process_part(mesh)
    rng = np.random.default_rng((toy.SEED, step))
    size = NUM_ROWS // count
    rows = {
        name: rng.normal(size=(NUM_ROWS, 4)).astype(np.float32)[index * size :][:size]
        for name in ("inputs", "targets")
    }
    return meshes.shard_batch(rows, mesh)


def main(folder, address, count, index, num_devices):
    jax.config.update("jax_num_cpu_devices", num_devices)
    if count > 1:
        processes.start(
            coordinator_address=address,
            process_count=count,
            process_index=index,
            heartbeat_secs=10,
        )
    mesh = meshes.make_mesh(num_fsdp=-1)
    tx, step_fn = toy.make_step(OPTIMIZER, NUM_STEPS)
    trained, frozen = trees.split(toy.make_params(), toy.TRAINABLE)
    frozen = place(frozen, mesh)
    now = state.init_state(place(trained, mesh), tx, seed=toy.SEED)
    store = TalkingStore(
        folder, config={"seed": toy.SEED}, keep_every_steps=NUM_STEPS // 2
    )
    now = store.restore(now) or now
    print(f"starts at {int(now.step)}", flush=True)
    path, start_step = folder / "metrics.jsonl", int(now.step)
    rows = writers.JsonLinesWriter(path, start_step=start_step)
    report = hooks.ReportMetrics(
        [rows] if processes.is_main() else [], num_steps=NUM_STEPS
    )
    with signals.StopRequest() as stop:
        agreed = agreement.AgreedStop(stop)
        now = loop.train(
            now,
            frozen,
            step_fn=step_fn,
            batches=((n, batch_at(n, mesh)) for n in range(int(now.step), NUM_STEPS)),
            num_steps=NUM_STEPS,
            report=loop.Every(LOG_STEPS, report),
            sums=store.read_sums() or {},
            hooks=[loop.Every(SAVE_STEPS, hooks.save_states(store))],
            after_step=lambda step: agreed.note_step(),
            should_stop=agreed.is_requested,
            answer_stop=agreed.note_answered,
        )
    store.close()
    agreed.exit_if_requested()
    whole = processes.gather(now)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(whole):
        digest.update(np.asarray(leaf).tobytes())
    if processes.is_main():
        np.savez(folder / "final.npz", **trees.flatten(whole.params))
    print(f"done {int(whole.step)} {digest.hexdigest()}", flush=True)

"""Parameters come to their devices one by one, in the dtype that they have there."""

import dataclasses
import gc
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import manifest, streaming, tensors
from elm_jax.model import precision, t5
from elm_jax.partitioning import mesh as meshes
from elm_jax.runs import bases, loaded, placing
from tests.runs import scored

SHAPE = dataclasses.replace(scored.SHAPE, dtype="bfloat16", num_encoder_layers=8)


@pytest.fixture
def mesh():
    return meshes.make_mesh()


def save_base(folder, shape):
    """Saves a base in parts, as a converted one is."""
    params = jax.device_get(t5.init_params(t5.T5(shape), seed=0))
    leaves = {}
    for name, leaf in trees.flatten(params).items():
        whole = tensors.whole(tensors.Tensor(leaf.shape, leaf.dtype, lambda a=leaf: a))
        leaves[name] = whole._replace(
            rows=1, blocks=lambda a=leaf: (a[n : n + 1] for n in range(len(a)))
        )
    streaming.save_base(
        folder,
        leaves,
        lambda fingerprint: manifest.Manifest(
            name="base",
            kind="base",
            base_name="base",
            base_fingerprint=fingerprint,
            model=bases.describe(shape) or {},
            trainable_pattern=".*",
        ),
        dtype=np.dtype(np.float32),
        on_bytes=lambda done: None,
    )
    return params


@pytest.mark.slow
def test_what_is_on_disk_lies_on_devices_as_what_is_in_memory(tmp_path, mesh):
    params = save_base(tmp_path / "base", SHAPE)
    base = loaded.Base.open(tmp_path / "base")
    expected = precision.in_compute_dtype(SHAPE, jax.tree.map(jnp.asarray, params))
    for host_params in (base.params, params, jax.tree.map(jnp.asarray, params)):
        placed = placing.frozen(host_params, SHAPE, mesh, "data")
        assert trees.fingerprint(placed) == trees.fingerprint(expected)
    trained = placing.trained(base.params, mesh, "data")
    assert trees.fingerprint(trained) == trees.fingerprint(params)
    assert trees.fingerprint(loaded.Base.load(tmp_path / "base").params) == (
        trees.fingerprint(params)
    )


def test_the_host_casts_as_the_devices_do(mesh):
    powers = 10.0 ** np.arange(-25, 25, 5e-3)
    values = np.random.default_rng(0).normal(size=len(powers)) * powers
    values = np.concatenate([values, [0, -0.0, np.inf, 3.4e38, -3.4e38]])
    params = {"encoder": {"encoder_norm": {"scale": values.astype(np.float32)}}}
    on_host = placing.frozen(params, SHAPE, mesh, "data")
    on_device = placing.frozen(jax.tree.map(jnp.asarray, params), SHAPE, mesh, "data")
    assert trees.fingerprint(on_host) == trees.fingerprint(on_device)


@pytest.mark.slow
def test_the_host_holds_no_more_than_what_is_placed_and_one_part(tmp_path, mesh):
    """The part as it is on disk and as it is placed; here, parts are whole tensors."""
    shape = dataclasses.replace(SHAPE, mlp_dim=4096, num_decoder_layers=8)
    save_base(tmp_path / "base", shape)
    params = loaded.Base.open(tmp_path / "base").params
    # The first time, JAX keeps what it traced and compiled, too.
    placing.frozen(params, shape, mesh, "data")
    params = loaded.Base.open(tmp_path / "base").params
    gc.collect()
    tracemalloc.start()
    placed = placing.frozen(params, shape, mesh, "data")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sizes = [leaf.nbytes for leaf in trees.flatten(params).values()]
    # A CPU's devices take the memory of what is placed.
    most = 1.1 * trees.count_bytes(placed) + 1.5 * max(sizes)
    assert peak < most < 0.9 * sum(sizes)


@pytest.mark.slow
def test_values_that_were_changed_on_disk_are_refused_when_they_are_placed(
    tmp_path, mesh
):
    save_base(tmp_path / "base", SHAPE)
    info = manifest.read_manifest(tmp_path / "base")
    wrong = dict.fromkeys(info.digests, "0" * 32)
    manifest.write_manifest(tmp_path / "base", dataclasses.replace(info, digests=wrong))
    base = loaded.Base.open(tmp_path / "base")
    with pytest.raises(errors.CheckpointError, match="holds other tensors"):
        placing.frozen(base.params, SHAPE, mesh, "data")

"""Programs are read, counted and timed, loop bodies as often as they run."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from elm_jax.compiling import hlo, products, roofline, targets

FOLDER = pathlib.Path(__file__).parent
V5E = targets.find("v5litepod-4")
H100 = targets.find("h100")


def text_of(fn, *shapes, **options):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(fn, **options).lower(*arguments).compile().as_text()


def test_a_scanned_product_counts_as_often_as_the_scan_runs():
    def chain(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    text = text_of(chain, (8, 64), (24, 64, 64))
    work = roofline.work_of(text, H100)
    assert work.flops == 24 * 2 * 8 * 64 * 64
    # Each turn takes one matrix of the stack, not all of them, and may copy it.
    assert 24 * 4 * 64 * 64 <= work.num_bytes < 4 * 24 * 4 * 64 * 64


def test_a_loop_within_a_loop_counts_as_both():
    def nested(x, w):
        def inner(x, _):
            return x @ w, None

        def outer(x, _):
            return jnp.sin(jax.lax.scan(inner, x, None, length=5)[0]), None

        return jax.lax.scan(outer, x, None, length=3)[0]

    work = roofline.work_of(text_of(nested, (4, 32), (32, 32)), H100)
    assert work.flops == 15 * 2 * 4 * 32 * 32


def test_a_loop_that_may_end_early_counts_in_full():
    def search(x, w):
        def goes_on(now):
            return (now[0] < 7) & (jnp.sum(now[1]) < 1e9)

        return jax.lax.while_loop(goes_on, lambda n: (n[0] + 1, n[1] @ w), (0, x))[1]

    work = roofline.work_of(text_of(search, (4, 16), (16, 16)), H100)
    assert work.flops == 7 * 2 * 4 * 16 * 16


def test_of_two_branches_the_dearer_one_counts():
    def choose(x, w):
        small, large = (lambda x: x @ w), (lambda x: (x @ w) @ w)
        return jax.lax.cond(x[0, 0] > 0, small, large, x)

    work = roofline.work_of(text_of(choose, (4, 16), (16, 16)), H100)
    assert work.flops == 2 * 2 * 4 * 16 * 16


def test_products_of_many_matrices_count_each():
    text = text_of(
        lambda a, b: jnp.einsum("bhtk,bhsk->bhts", a, b), *[(2, 3, 8, 16)] * 2
    )
    assert roofline.work_of(text, H100).flops == 2 * 6 * 8 * 8 * 16


def test_messages_of_a_program_for_several_devices_are_counted():
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((8, 32), jnp.float32, sharding=rows)

    def total(x):
        def add(sums, _):
            return sums + jnp.sum(x * sums, axis=0, keepdims=True), None

        return jax.lax.scan(add, jnp.ones((1, 32)), None, length=6)[0]

    text = jax.jit(total).lower(x).compile().as_text()
    (message,) = roofline.work_of(text, V5E).collectives
    assert (message.kind, message.dtype, message.group_size) == ("all-reduce", "f32", 4)
    assert message.count == 6
    assert message.num_bytes == 6 * 4 * 32


# As the TPU compiler writes a product of 32 pairs of matrices: a window that meets the
# input once for each.
CONVOLUTION = (FOLDER / "convolution.hlo").read_text("utf-8")

GEMM = (FOLDER / "gemm.hlo").read_text("utf-8")


def test_a_product_that_is_written_as_a_convolution_has_its_operations():
    assert roofline.work_of(CONVOLUTION, V5E).flops == 32 * 2 * 8 * 16 * 24


def test_a_call_of_the_gpu_library_counts_in_each_turn():
    assert roofline.work_of(GEMM, H100).flops == 10 * 2 * 8 * 64 * 64


def test_turns_that_nothing_but_the_condition_tells_are_found_there():
    text = GEMM.replace(', backend_config={"known_trip_count":{"n":"10"}}', "")
    assert roofline.work_of(text, H100).flops == 24 * 2 * 8 * 64 * 64


def test_an_ordinary_convolution_counts_no_padding():
    text = CONVOLUTION.replace(
        "window={size=32 stride=31 pad=0_0 lhs_dilate=32}", "window={size=32 pad=31_0}"
    )
    ((_, entry),) = hlo.parse(text).computations.items()
    # Output i meets inputs 0 to i.
    assert products.flops(entry["c"], entry) == sum(range(1, 33)) * 2 * 8 * 16 * 24


def test_time_is_that_of_the_slower_of_operations_and_memory():
    work = roofline.work_of(CONVOLUTION, V5E)
    num_bytes = 2 * 32 * 16 * (8 + 24) + 4 * 32 * 8 * 24
    assert work.num_bytes == num_bytes
    assert work.least_secs == pytest.approx(num_bytes / V5E.bandwidth)
    fast = dataclasses.replace(V5E, bandwidth=1e30)
    least = roofline.work_of(CONVOLUTION, fast).least_secs
    assert least == pytest.approx(work.flops / V5E.peak_flops)


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule empty\n")


def test_sizes_of_arrays_are_read_with_their_layouts():
    line = "  %x = (f32[2,3]{1,0:T(8,128)S(1)}, /*index=1*/pred[4]{0}) tuple(%a, %b)"
    text = f"ENTRY %main {{\n{line}\n}}"
    instruction = hlo.parse(text).computations["main"]["x"]
    assert instruction.arrays == (("f32", (2, 3)), ("pred", (4,)))
    assert instruction.operands == ("a", "b")
    assert instruction.num_bytes == np.prod((2, 3)) * 4 + 4


# As the TPU compiler takes a layer's matrix: in a fusion within the product's fusion.
NESTED = """HloModule tpu

%inner (p0: bf16[24,64,64], p1: s32[]) -> bf16[64,64] {
  %p0 = bf16[24,64,64]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = bf16[1,64,64]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero)
  ROOT %matrix = bf16[64,64]{1,0} bitcast(%one)
}

%outer (q0: bf16[8,64], q1: bf16[24,64,64], q2: s32[]) -> bf16[8,64] {
  %q0 = bf16[8,64]{1,0} parameter(0)
  %q1 = bf16[24,64,64]{2,1,0} parameter(1)
  %q2 = s32[] parameter(2)
  %w = bf16[64,64]{1,0} fusion(%q1, %q2), kind=kLoop, calls=%inner
  ROOT %c = bf16[8,64]{1,0} convolution(%q0, %w), dim_labels=bf_io->bf
}

ENTRY %main (x: bf16[8,64], stack: bf16[24,64,64], i: s32[]) -> bf16[8,64] {
  %x = bf16[8,64]{1,0} parameter(0)
  %stack = bf16[24,64,64]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %y = bf16[8,64]{1,0} fusion(%x, %stack, %i), kind=kOutput, calls=%outer
}
"""


def test_of_a_stack_that_a_fusion_slices_only_the_slice_is_read():
    work = roofline.work_of(NESTED, V5E)
    assert work.flops == 2 * 8 * 64 * 64
    assert work.num_bytes == 2 * (2 * 8 * 64 + 64 * 64) + 4

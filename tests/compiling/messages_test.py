"""Messages of compiled programs have the bytes that devices send, each once.

The lines are as compilers for TPUs (v5litepod-16) and GPUs (h100:8) wrote them for one
program with each kind of message; only layouts and other attributes are left out.
"""

import pathlib

import pytest

from elm_jax import errors
from elm_jax.compiling import hlo, messages, roofline, targets

FOLDER = pathlib.Path(__file__).parent
V5E = targets.find("v5litepod-16")
MIB = 2**20
AMONG_8 = "replica_groups={{0,1,2,3,4,5,6,7}}"
RING = "source_target_pairs={{0,1},{1,2},{2,3},{3,0}}"


def sent_by(line):
    """Returns kind, dtype, bytes and size of the group of each message of a line."""
    module = hlo.parse(f"ENTRY %main {{\n  %x = {line}\n}}")
    sent = messages.sent_by(module.computations["main"]["x"], V5E.num_devices)
    return [(each.kind, each.dtype, each.num_bytes, each.group_size) for each in sent]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            "(bf16[1024,1024]{1,0:T(8,128)(2,1)}, bf16[1024,1024]{1,0:T(8,128)(2,1)},"
            " u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%a), channel_id=1,"
            f" {RING}",
            [("collective-permute", "bf16", 2 * MIB, 2)],
            id="permute-tpu",
        ),
        pytest.param(
            "(bf16[1024,1024]{1,0}, bf16[1024,1024]{1,0}) collective-permute-start(%a),"
            f" channel_id=1, {RING}",
            [("collective-permute", "bf16", 2 * MIB, 2)],
            id="permute-gpu",
        ),
        pytest.param(
            f"f32[128,32]{{1,0}} collective-permute(%a), channel_id=1, {RING}",
            [("collective-permute", "f32", 4 * 128 * 32, 2)],
            id="permute",
        ),
        # As in XLA's hlo_parser_test.cc, CollectivePermuteInPlaceUpdate.
        pytest.param(
            "(f32[128,32]{0,1}, f32[128,128]{0,1}, u32[], u32[])"
            f" collective-permute-start(%a, %b, %c, %d), {RING},"
            " slice_sizes={{64,32},{8,32}}",
            [
                ("collective-permute", "f32", 4 * 64 * 32, 2),
                ("collective-permute", "f32", 4 * 8 * 32, 2),
            ],
            id="permute-slices",
        ),
        pytest.param(
            "(bf16[256,1024]{1,0}, bf16[2048,1024]{1,0}) all-gather-start(%a),"
            f" channel_id=1, {AMONG_8}, dimensions={{0}}",
            [("all-gather", "bf16", 4 * MIB, 8)],
            id="gather-start",
        ),
        pytest.param(
            "((bf16[256,1024]{1,0}, f32[4]{0}), (bf16[2048,1024]{1,0}, f32[32]{0}))"
            f" all-gather-start(%a, %b), channel_id=1, {AMONG_8}, dimensions={{0}}",
            [("all-gather", "bf16", 4 * MIB, 8), ("all-gather", "f32", 4 * 32, 8)],
            id="gather-start-of-two",
        ),
        pytest.param(
            "((bf16[2048,1024]{1,0}), bf16[256,1024]{1,0}) reduce-scatter-start(%a),"
            f" channel_id=1, {AMONG_8}, dimensions={{0}}, to_apply=%region",
            [("reduce-scatter", "bf16", MIB // 2, 8)],
            id="scatter-start",
        ),
        pytest.param(
            "((bf16[1024,1024]{1,0}), bf16[1024,1024]{1,0}) all-to-all-start(%a),"
            f" channel_id=1, {AMONG_8}, dimensions={{0}}",
            [("all-to-all", "bf16", 2 * MIB, 8)],
            id="all-to-all-start",
        ),
        pytest.param(
            "(bf16[1024,1024]{1,0}, f32[7]{0}) all-reduce-start(%a, %b), channel_id=1,"
            f" {AMONG_8}, to_apply=%region",
            [("all-reduce", "bf16", 2 * MIB, 8), ("all-reduce", "f32", 28, 8)],
            id="reduce-start",
        ),
        pytest.param(
            "bf16[1024,1024]{1,0} all-reduce-done(%a), to_apply=%region", [], id="done"
        ),
        pytest.param(
            "f32[8]{0} all-reduce(%a), channel_id=3, to_apply=%region,"
            " replica_groups=mesh['axis_0'=4,'axis_1'=2,'axis_2'=2]"
            " {'axis_1','axis_2'}",
            [("all-reduce", "f32", 32, 4)],
            id="groups-by-mesh",
        ),
        pytest.param(
            "f32[8]{0} all-reduce(%a), channel_id=3, to_apply=%region,"
            " replica_groups=mesh['axis_0'=2,'axis_1'=4],"
            " device_ids=([2,2,2]T(1,0,2)) {'axis_0'}",
            [("all-reduce", "f32", 32, 2)],
            id="groups-by-mesh-in-another-order",
        ),
    ],
)
def test_what_is_sent_is_what_arrives(line, expected):
    assert sent_by(line) == expected


def test_groups_that_are_not_understood_are_refused():
    line = "f32[8]{0} all-reduce(%a), to_apply=%region, replica_groups=GROUPS"
    assert sent_by(line.replace("GROUPS", "{}")) == [("all-reduce", "f32", 32, 16)]
    with pytest.raises(errors.ConfigError, match="@by_name"):
        sent_by(line.replace("GROUPS", "@by_name {'axis_0'}"))


def async_pair():
    text = """HloModule m

%wrapped (p: f32[64]) -> f32[8] {
  %p = f32[64]{0} parameter(0)
  ROOT %rs = f32[8]{0} reduce-scatter(%p), channel_id=1, dimensions={0},
    to_apply=%add, GROUPS
}

ENTRY %main (x: f32[64]) -> f32[8] {
  %x = f32[64]{0} parameter(0)
  %s = ((f32[64]{0}), f32[8]{0}) async-start(%x), calls=%wrapped
  %u = ((f32[64]{0}), f32[8]{0}) async-update(%s), calls=%wrapped
  ROOT %d = f32[8]{0} async-done(%u), calls=%wrapped
}"""
    return text.replace(",\n    to_apply", ", to_apply").replace("GROUPS", AMONG_8)


def test_an_asynchronous_pair_sends_once():
    (sent,) = roofline.work_of(async_pair(), V5E).collectives
    assert (sent.kind, sent.count, sent.num_bytes) == ("reduce-scatter", 1, 32)
    # Around a ring, each device sends a part of each other device's sum.
    assert sent.secs(V5E) == pytest.approx(7 * 32 / V5E.link_bandwidth)


def test_a_message_that_fusions_carry_along_is_sent_once():
    text = (FOLDER / "messages_tpu.hlo").read_text("utf-8")
    assert text.count("all-gather(") == 3
    work = roofline.work_of(text, V5E)
    (sent,) = work.collectives
    assert (sent.kind, sent.dtype, sent.group_size) == ("all-gather", "bf16", 16)
    assert (sent.count, sent.num_bytes) == (1, 8 * MIB)
    # The gather reads a sixteenth and writes all, beside a copy of that sixteenth and
    # the flags; the product reads a matrix and writes one.
    flags = 4 * 2 + 4
    assert work.num_bytes == (2 * 8 * MIB // 16 + 8 * MIB + flags) + 2 * 2 * MIB


def test_of_a_fusion_that_ends_a_message_what_it_makes_of_it_counts():
    text = (FOLDER / "messages_tpu.hlo").read_text("utf-8")
    received = text[text.index("%custom-call.3 = ") :].partition("\n")[0]
    twice = "ROOT %twice = bf16[4096,1024]{1,0} add(%custom-call.3, %custom-call.3)"
    used = text.replace(f"ROOT {received}", f"{received}\n  {twice}")
    before, after = (roofline.work_of(each, V5E).num_bytes for each in (text, used))
    assert after - before == 2 * 8 * MIB  # reads what has come, and writes the sum


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        ("all-reduce", 2 * 3 / 4),
        ("all-gather", 3 / 4),
        ("reduce-scatter", 3),  # of the result, a quarter of what is summed
        ("all-to-all", 3 / 4),
        ("collective-permute", 1),
    ],
)
def test_the_least_time_is_that_of_the_bytes_that_a_device_sends(kind, times):
    size = 2 if kind == "collective-permute" else 4
    sent = messages.Collective(
        kind=kind, dtype="f32", group_size=size, count=1, num_bytes=10**9
    )
    assert sent.secs(V5E) == pytest.approx(times * 1e9 / V5E.link_bandwidth)


def test_devices_that_are_alone_send_nothing():
    sent = messages.Collective(
        kind="all-reduce", dtype="f32", group_size=1, count=1, num_bytes=10**9
    )
    assert not sent.secs(V5E)

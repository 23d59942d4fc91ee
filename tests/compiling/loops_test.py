"""Loops run as often as their counters say, also if these do not count by one."""

import pytest

from elm_jax.compiling import hlo, loops

# As a TPU's compiler (v5litepod-16) writes a product, one factor of which is sent round
# in both directions: eight of sixteen parts each, two in a turn. What is computed is
# left out.
WINDOWED = """HloModule m

%cond (p: (bf16[2048,2048], bf16[8], u32[], u32[])) -> pred[] {
  %constant.602 = u32[]{:T(128)} constant(LIMIT)
  %p = (bf16[2048,2048]{1,0}, bf16[8]{0}, u32[]{:T(128)}, u32[]{:T(128)}) parameter(0)
  %gte.597 = u32[]{:T(128)} get-tuple-element(%p), index=2
  ROOT %compare.19 = pred[]{:T(512)} compare(%gte.597, %constant.602), direction=LT
}

%body (q: (bf16[2048,2048], bf16[8], u32[], u32[])) -> (bf16[], bf16[], u32[], u32[]) {
  %constant.692 = u32[]{:T(128)} constant(15)
  %constant.695 = u32[]{:T(128)} constant(STEP)
  %q = (bf16[2048,2048]{1,0}, bf16[8]{0}, u32[]{:T(128)}, u32[]{:T(128)}) parameter(0)
  %partition-id.31 = u32[]{:T(128)S(6)} partition-id()
  %gte.1 = u32[]{:T(128)} get-tuple-element(%q), index=2
  %add.254 = u32[]{:T(128)S(6)} add(%partition-id.31, %constant.692)
  %copy.1 = u32[]{:T(128)} copy(%gte.1)
  %add.257 = u32[]{:T(128)} add(%copy.1, %constant.695)
  %gte.2 = bf16[2048,2048]{1,0} get-tuple-element(%q), index=0
  %gte.3 = bf16[8]{0} get-tuple-element(%q), index=1
  ROOT %tuple.1 = (bf16[2048,2048], bf16[8], u32[], u32[]) tuple(%gte.2, %gte.3, NEXT, %add.254)
}

ENTRY %main (a: bf16[2048,2048], b: bf16[8]) -> bf16[2048,2048] {
  %a = bf16[2048,2048]{1,0} parameter(0)
  %b = bf16[8]{0} parameter(1)
  %constant.690 = u32[]{:T(128)} constant(FIRST)
  %copy.130 = u32[]{:T(128)} copy(%constant.690)
  %tuple.189 = (bf16[2048,2048]{1,0}, bf16[8]{0}, u32[], u32[]) tuple(%a, %b, %copy.130, %constant.690)
  %while.66 = (bf16[2048,2048]{1,0}, bf16[8]{0}, u32[], u32[]) while(%tuple.189), condition=%cond, body=%bodyBESIDE
  ROOT %out = bf16[2048,2048]{1,0} get-tuple-element(%while.66), index=0
}"""  # noqa: E501 - lines of a program


@pytest.mark.parametrize(
    ("first", "limit", "step", "turns"),
    [
        (0, 8, 2, 4),
        (0, 8, 1, 8),
        (1, 8, 1, 7),
        (0, 7, 2, 4),
        (3, 10, 4, 2),
        (9, 8, 1, 0),
    ],
)
def test_a_loop_runs_until_its_counter_reaches_the_limit(first, limit, step, turns):
    assert turns == len(range(first, limit, step))
    assert trips(first=first, limit=limit, step=step) == turns


def trips(*, first=0, limit=8, step=2, following="%add.257", beside=""):
    numbers = {"FIRST": first, "LIMIT": limit, "STEP": step}
    text = WINDOWED
    for name, value in {**numbers, "NEXT": following, "BESIDE": beside}.items():
        text = text.replace(name, f"{value}")
    module = hlo.parse(text)
    computation = module.computations["main"]
    return loops.trips(computation["while.66"], computation, module)


def test_what_the_compiler_knows_of_a_loop_is_taken():
    beside = ', backend_config={"known_trip_count":{"n":"5"}}'
    assert trips(beside=beside) == 5


def test_a_counter_that_is_not_understood_counts_by_one():
    # The next number depends on the device.
    assert trips(following="%add.254") == 8


def test_of_two_limits_the_one_that_is_reached_first_ends_the_loop():
    second = """  %gte.598 = u32[]{:T(128)} get-tuple-element(%p), index=3
  %constant.603 = u32[]{:T(128)} constant(BOUND)
  %compare.20 = pred[]{:T(512)} compare(%gte.598, %constant.603), direction=LT
  ROOT %and.1 = pred[]{:T(512)} and(%compare.19, %compare.20)
"""
    counted = "%gte.4 = u32[]{:T(128)} get-tuple-element(%q), index=3\n"
    counted += "  %add.254 = u32[]{:T(128)} add(%gte.4, %constant.695)\n"
    lines = WINDOWED.splitlines(keepends=True)
    text = "".join(
        counted if "%add.254 = " in line else line.replace("ROOT %compare", "%compare")
        for line in lines
    )
    text = text.replace("direction=LT\n", f"direction=LT\n{second}", 1)
    numbers = {"FIRST": 0, "LIMIT": 8, "STEP": 2, "NEXT": "%add.257", "BESIDE": ""}
    for name, value in numbers.items():
        text = text.replace(name, f"{value}")
    for joined, bound, turns in [
        *(("and", 6, 3), ("and", 20, 4), ("and", 4, 2)),
        ("or", 4, 8),  # which goes on to the greater one: by the greatest number
    ]:
        of_bound = text.replace("BOUND", f"{bound}").replace(" and(", f" {joined}(")
        module = hlo.parse(of_bound)
        computation = module.computations["main"]
        assert loops.trips(computation["while.66"], computation, module) == turns

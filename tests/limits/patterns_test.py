import re
import time

import pytest

from elm_jax.limits import patterns
from elm_jax.peft import expert_parts, ia3, lora

NAMES = ("encoder/layers/attention/query/kernel", "decoder/final_norm/scale")
ENDLESS = {
    "to search": r"([\w/]+)+!",
    "to compile": "(?i)" + "[\0-\U0010ffff]" * 99,
}


def test_the_projects_own_patterns_need_no_process():
    ours = {*expert_parts.PARTS.values(), lora.Lora().targets, ia3.Ia3().targets}
    assert ours == patterns.OURS


@pytest.mark.parametrize(
    "pattern", [*sorted(patterns.OURS), "norm/|query", "^enc.*l$", "", "x"]
)
def test_names_are_found_as_python_finds_them(pattern):
    expected = {name for name in NAMES if re.search(pattern, name)}
    assert patterns.found_in(pattern, NAMES) == expected


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.usefixtures("short_limits")
def test_a_pattern_without_end_is_an_error_within_the_limit(kind):
    start = time.monotonic()
    with pytest.raises(
        patterns.PatternError, match=r"more than 0\.3 s of CPU"
    ) as caught:
        patterns.found_in(ENDLESS[kind], NAMES)
    assert caught.value.reason.startswith("too much")
    assert time.monotonic() - start < 60  # on a machine with much else to do


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "*", "(" * 5000 + ")" * 5000])
def test_a_pattern_that_is_none_is_told(pattern):
    with pytest.raises(patterns.PatternError, match="no regular expression"):
        patterns.found_in(pattern, NAMES)

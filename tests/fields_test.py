import pytest

from elm_jax import errors
from elm_jax.training import optimizers


@pytest.mark.parametrize(
    ("field", "value", "is_now"),
    [
        *[("learning_rate", 1e39, "inf"), ("learning_rate", 10**40, "inf")],
        *[("b1", 1 - 1e-12, "1"), ("b2", 1 - 1e-9, "1"), ("weight_decay", 4e38, "inf")],
        *[("eps", 1e-50, "0"), ("eps", 1e-40, "0"), ("clip_norm", 1e-46, "0")],
    ],
)
def test_a_number_that_leaves_its_range_where_it_is_computed_with_is_refused(
    field, value, is_now
):
    """Devices compute in float32, in which 1e39 is infinite and 1e-40 is 0."""
    with pytest.raises(errors.ConfigError, match=f"also as float32: now {is_now}"):
        optimizers.AdamW(**{field: value})


def test_numbers_at_the_ends_of_what_float32_holds_are_taken():
    most = {"learning_rate": 3.4e38, "b1": 1 - 1e-7, "eps": 1.2e-38}
    least = {"learning_rate": 0.0, "b1": 0.0, "clip_norm": 3.4e38}
    for settings in (most, least):
        optimizer = optimizers.AdamW(**settings)
        assert {name: getattr(optimizer, name) for name in settings} == settings

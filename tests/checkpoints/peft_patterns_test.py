"""Which modules a PEFT configuration means, by PEFT's rules."""

import pytest

from elm_jax import errors
from elm_jax.checkpoints import peft_patterns, peft_settings
from tests.checkpoints import peft_sample

MODULES = peft_settings.modules(peft_sample.shapes())
Q = "decoder.block.2.layer.1.EncDecAttention.q"


def chosen(**settings):
    return {n for n in MODULES if peft_patterns.is_target(settings, n)}


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"target_modules": ["q"]}, 2 + 2 * 3),
        ({"target_modules": [Q]}, 1),
        ({"target_modules": ["SelfAttention.q"]}, 5),
        ({"target_modules": ["elfAttention.q"]}, 0),  # whole names between dots only
        ({"target_modules": "all-linear"}, len(MODULES)),
        ({"target_modules": r".*\.q"}, 8),
        ({"target_modules": r"\.q"}, 0),  # the whole name must match
        ({"target_modules": ["q"], "exclude_modules": ["EncDecAttention.q"]}, 5),
        ({"target_modules": "all-linear", "exclude_modules": r"encoder.*"}, 33),
        ({"target_modules": ["q"], "layers_to_transform": 1}, 3),
        ({"target_modules": ["q"], "layers_to_transform": [0, 2]}, 5),
        (
            {
                "target_modules": ["q"],
                "layers_to_transform": [2],
                "layers_pattern": ["h", "block"],
            },
            2,
        ),
        (
            {
                "target_modules": ["q"],
                "layers_to_transform": [2],
                "layers_pattern": "h",
            },
            0,
        ),
    ],
)
def test_targets_are_chosen_as_peft_chooses_them(settings, count):
    assert len(chosen(**settings)) == count


def test_the_first_pattern_that_ends_a_name_gives_its_rank_and_alpha():
    settings = {
        "r": 8,
        "lora_alpha": 16,
        "rank_pattern": {"q": 4, "EncDecAttention.q": 2},
        "alpha_pattern": {r"decoder\..*": 2},
    }
    assert peft_patterns.rank(settings, Q) == 4
    assert peft_patterns.scale(settings, Q) == 0.5
    stable = settings | {"use_rslora": True}
    assert peft_patterns.scale(stable, Q) == 1.0
    key = "encoder.block.0.layer.0.SelfAttention.k"
    assert peft_patterns.rank(settings, key) == 8
    assert peft_patterns.scale(settings, key) == 2.0


EVIL = "(([a-z0-9._A-Z])*)*!"


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": EVIL},
        {"target_modules": ["q"], "exclude_modules": EVIL},
        {"target_modules": ["q"], "layers_to_transform": 1, "layers_pattern": EVIL},
        {"target_modules": ["q"], "rank_pattern": {EVIL: 4}},
        {"target_modules": ["q"], "alpha_pattern": {EVIL: 4}},
        {"target_modules": ["q"], "feedforward_modules": EVIL},
    ],
    ids=lambda settings: next(reversed(settings)),
)
@pytest.mark.usefixtures("short_limits")
def test_a_pattern_without_end_is_an_error_within_seconds(settings):
    with pytest.raises(errors.CheckpointError, match=r"more than 0\.3 s of CPU"):
        resolved(**settings)


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "(?P<n>a)(?P<n>b)", "*"])
def test_a_pattern_that_is_none_is_told(pattern):
    for name in ("target_modules", "exclude_modules"):
        with pytest.raises(errors.CheckpointError, match="cannot be read"):
            resolved(**{"target_modules": ["q"], name: pattern})


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r".*\.q|.*wo", "rank_pattern": {"q": 4, r".*\.1\..*": 2}},
        {"target_modules": "all-linear", "exclude_modules": ["k", "v"]},
        {"target_modules": ["q", "wo"], "layers_to_transform": [0, 2]},
        {"target_modules": ["q"], "alpha_pattern": {"SelfAttention.q": 32.5}},
        {"target_modules": ["q", "wo"], "feedforward_modules": ["wo"]},
        {"target_modules": ["q", "wo"], "feedforward_modules": r".*\.wo"},
        {"target_modules": ["no such"]},
    ],
)
def test_settings_without_patterns_mean_the_same_for_every_module(settings):
    settings = {"r": 8, "lora_alpha": 16, **settings}
    plain = resolved(**settings)
    for name in MODULES:
        for ask in (
            *(peft_patterns.is_target, peft_patterns.is_feed_forward),
            *(peft_patterns.rank, peft_patterns.scale),
        ):
            assert ask(plain, name) == ask(settings, name)


def resolved(**settings):
    settings = {"r": 8, "lora_alpha": 16, **settings}
    return peft_patterns.without_patterns(settings, MODULES, of="adapter_config.json")

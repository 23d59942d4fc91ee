"""What a manifest says of an expert's adapters becomes their specification again."""

import dataclasses
import json

import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.peft import bottleneck, ia3, lora
from elm_jax.runs import bases


def info(adapter):
    return manifest.Manifest(
        name="x",
        kind="prompt",
        base_name="base",
        base_fingerprint="0" * 16,
        model={},
        trainable_pattern="_adapter/",
        adapter=json.loads(json.dumps(adapter)),
    )


@pytest.mark.parametrize(
    "spec",
    [
        None,
        bottleneck.Bottleneck(points=("encoder/mlp",), parallel=True),
        lora.Lora(rank=3, alpha=1.5, rank_stabilized=True, dropout=0.1),
        ia3.Ia3(targets="/value$"),
    ],
)
def test_a_spec_comes_back_from_a_manifest(spec):
    assert bases.adapter_spec(info(bases.describe(spec))) == spec


def test_a_manifest_from_before_other_kinds_gives_the_same_bottleneck():
    new = ("parallel", "start_at_identity")
    fields = dataclasses.asdict(bottleneck.Bottleneck(reduction_factor=4))
    old = {name: value for name, value in fields.items() if name not in new}
    assert bases.adapter_spec(info(old)) == bottleneck.Bottleneck(reduction_factor=4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "loar"}, "Did you mean: lora"),
        ({"kind": "lora", "rank": 0}, "rank = 0"),
        ({"kind": "lora", "width": 4}, "width"),
        ({"rank": 4}, "kind"),
    ],
)
def test_an_unknown_or_wrong_spec_is_refused(fields, message):
    with pytest.raises(errors.CheckpointError, match=message):
        bases.adapter_spec(info(fields))


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_targets_of_a_manifest_that_take_for_ever_are_an_error_that_names_them(kind):
    endless = {"kind": kind, "targets": r"([\w/]+)+!"}
    message = r"(?s)manifest of 'x'.*targets.*0\.3 s of CPU"
    with pytest.raises(errors.CheckpointError, match=message):
        bases.adapter_spec(info(endless))

"""The insertion points of the model, and what a spec may say of them.

A sub-layer's point is `<stack>/<sub-layer>`; a projection's has the projection's
name behind it. `hidden` is what enters the last projection of a feed-forward block.
"""

from collections.abc import Sequence
from typing import Any

from elm_jax.limits import patterns

SUB_LAYERS = (
    "encoder/self_attention",
    "encoder/mlp",
    "decoder/self_attention",
    "decoder/cross_attention",
    "decoder/mlp",
)
_ATTENTION = ("query", "key", "value", "out")
# Those of a gated feed-forward block are wi_0 and wi_1, that of a plain one is wi.
_MLP = ("wi", "wi_0", "wi_1", "hidden", "wo")
PROJECTIONS = tuple(
    f"{sub_layer}/{part}"
    for sub_layer in SUB_LAYERS
    for part in (_MLP if sub_layer.endswith("/mlp") else _ATTENTION)
)


def wrong_targets(targets: Any, places: Sequence[str]) -> dict[str, str]:
    """Returns what is wrong with a spec's field `targets`, by its name, or nothing.

    Args:
      targets: Should be a regular expression that is found in one place or more.
      places: Names of insertion points.
    """
    if not isinstance(targets, str):
        return {"targets": "a regular expression"}
    try:
        if patterns.found_in(targets, places):
            return {}
    except patterns.PatternError as error:
        return {"targets": f"a regular expression; this is {error.reason}"}
    return {"targets": f"a pattern that is found in one of {', '.join(places)}"}

"""What experts and bases may be, and the role that each kind has in tables."""

import typing
from collections.abc import Mapping
from typing import Literal

TrainedKind = Literal["base", "prompt", "dataset", "multitask", "selection"]
Kind = Literal[TrainedKind, "merged"]
"""What experts and bases are, as their manifests say: the one list of it."""

Role = Literal["base", "multitask", "selection", "strategy", "merged", "expert"]
"""What the parameters behind a score are, in the order in which tables show them.

Parts of a library have the role `expert`: only among them a best one is looked for.
"""

KINDS: tuple[Kind, ...] = typing.get_args(Kind)

ROLES: Mapping[Kind, Role] = {
    "base": "base",
    "prompt": "expert",
    "dataset": "expert",
    "multitask": "multitask",
    "selection": "selection",
    "merged": "merged",
}


def role(kind: str) -> Role:
    """Returns the role of a kind, or of `strategy`, which has no kind.

    A kind of another version, which is in no list here, counts as `expert`.
    """
    roles: Mapping[str, Role] = {**ROLES, "strategy": "strategy"}
    return roles.get(kind, "expert")

"""What a merged expert says of itself to people: `card.md` beside its manifest."""

from elm_jax.checkpoints import manifest
from elm_jax.merging.method import MergeMethod
from elm_jax.reporting import tables
from elm_jax.runs import licences


def text(info: manifest.Manifest, method: MergeMethod) -> str:
    """Returns the card of a merge as Markdown: the same for the same arguments.

    Args:
      info: The manifest of what was merged.
      method: The merge method.
    """
    made_of = info.data["merge"]
    options = method.recipe()
    name, weights = options.pop("method"), options.pop("weights", ())
    facts = {
        "kind": info.kind,
        "base": info.base_label,
        "adapter": (info.adapter or {}).get("kind", "none"),
        "method": name,
        **{f"option {option}": value for option, value in options.items()},
        "weights": "one for each part" if weights else "none given",
        "tasks of its parts": ", ".join(info.tasks),
        "licence of the data": licences.of(info),
        "made with": ", ".join(
            f"{k} {version}" for k, version in info.versions.items()
        ),
    }
    parts = zip(
        made_of["experts"], made_of["fingerprints"], made_of["seeds"], strict=True
    )
    rows = [
        (
            expert,
            f"{weights[place]:g}" if weights else "",
            "not known" if seed is None else f"{seed}",
            fingerprint,
        )
        for place, (expert, fingerprint, seed) in enumerate(parts)
    ]
    header = ("expert", "weight", "seed", "fingerprint")
    sections = [
        f"# {tables.escape(info.name)}",
        "\n".join(
            f"- {name}: {tables.escape(f'{fact}')}" for name, fact in facts.items()
        ),
        tables.to_markdown(tables.TextTable("Parts", header, tuple(rows))),
    ]
    return "\n\n".join(sections) + "\n"

"""elm_convert: imports weights of other programs, and exports to them."""

from typing import TYPE_CHECKING

from elm_jax.cli import start

if TYPE_CHECKING:
    from elm_jax.runs.run import Run


def runs() -> "tuple[type[Run], ...]":
    """Returns the runs of the binary; imports what they need."""
    from elm_jax.runs import convert, convert_bottlenecks, convert_experts, export

    return (
        convert.ImportT5X,
        convert.ImportHuggingFace,
        export.ExportHuggingFace,
        export.ExportT5X,
        convert_experts.ImportElmExperts,
        convert_experts.ImportPeft,
        convert_experts.ExportPeft,
        convert_bottlenecks.ExportBottleneck,
        convert_bottlenecks.ImportAdapterHub,
        convert_bottlenecks.ExportAdapterHub,
        convert_experts.FoldExpert,
    )


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    start.main(__doc__, runs)


if __name__ == "__main__":
    main()

"""elm_convert: imports weights of other programs, and exports to them."""

from elm_jax.cli import gin_flags
from elm_jax.runs import convert, convert_experts, export


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    gin_flags.main(
        convert.ImportT5X,
        convert.ImportHuggingFace,
        export.ExportHuggingFace,
        export.ExportT5X,
        convert_experts.ImportElmExperts,
        convert_experts.ImportPeft,
        convert_experts.ExportPeft,
        convert_experts.FoldExpert,
    )


if __name__ == "__main__":
    main()

"""elm_merge: merges experts into one."""

from elm_jax.cli import gin_flags
from elm_jax.runs import merge


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    gin_flags.main(merge.Merge)


if __name__ == "__main__":
    main()

"""elm_train: trains experts, a multitask baseline or a base."""

from elm_jax.cli import gin_flags
from elm_jax.runs import train


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    gin_flags.main(train.Train)


if __name__ == "__main__":
    main()

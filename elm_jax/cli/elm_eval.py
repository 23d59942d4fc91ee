"""elm_eval: scores base, experts, retrieved and merged experts on tasks."""

from elm_jax.cli import gin_flags
from elm_jax.runs import evaluate


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    gin_flags.main(evaluate.Evaluate)


if __name__ == "__main__":
    main()

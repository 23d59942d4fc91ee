"""Trains experts on a Ray cluster: one task per shard of the list.

    python launch/ray_train.py --shards=8 elm_train \
        --gin_file=gin/t5/prompt_experts.gin --gin.MODEL_DIR=/mnt/runs/t5

Adds --gin.SHARD=i/n to the command and hands the shards to Ray, which places them on
whatever nodes there are, also on ones that join later, and starts a shard again
elsewhere when its worker or node is lost. The shard then goes on from its last save.
An error in the training itself is not tried again. MODEL_DIR has to lie where all nodes
see it, and elm_jax has to be installed on each.

Needs the extra `ray`. Each task is a process of its own, which ends with it: its
accelerators are free for the next.
"""

import argparse
import importlib
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from elm_jax import errors

BINARIES = ("elm_train", "elm_eval")
_STOPPED = (130, 143)  # statuses of a training that saved after a signal


def main(arguments: Sequence[str]) -> None:
    """Runs the program; exits with 1 if a shard failed, after all have ended."""
    options = _parse(arguments)
    try:
        _check(options)
        shards = [f"{i}/{options.shards}" for i in range(options.shards)]
        if options.dry_run:
            for shard in shards:
                words = shlex.join([*options.command, f"--gin.SHARD={shard}"])
                print(f"task of {_resources(options)}: {words}")  # noqa: T201
        else:
            _train(options, shards)
    except errors.ElmError as error:
        sys.exit(f"{type(error).__name__}\n{error}")


def run_shard(command: Sequence[str], shard: str) -> None:
    """Runs the command of one shard in this process, a Ray task.

    Raises:
      InterruptedError: A signal stopped the shard after it saved; Ray runs it again.
      RuntimeError: The shard failed; Ray does not run it again.
    """
    node = _import_ray().get_runtime_context().get_node_id()
    print(f"ray: shard {shard} begins on node {node}", flush=True)  # noqa: T201
    binary, *flags = command
    sys.argv = [binary, *flags, f"--gin.SHARD={shard}"]
    try:
        importlib.import_module(f"elm_jax.cli.{binary}").main()
    except SystemExit as end:
        if end.code in _STOPPED:
            raise InterruptedError(f"shard {shard} saved and stopped") from None
        if end.code:
            raise RuntimeError(f"shard {shard}: {end.code}") from None


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="launch/ray_train.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--shards", type=int, required=True, help="how many tasks; no more than experts"
    )
    add("--num_gpus", type=float, default=1, help="of each task; 0 on CPUs (1)")
    add("--num_cpus", type=float, default=1, help="of each task (1)")
    add("--resources", default="", help="others of each task, such as TPU=4 (none)")
    add("--max_retries", type=int, default=10, help="after a lost worker or node (10)")
    add(
        "--address", default="auto", help="of the cluster; local starts one here (auto)"
    )
    add("--dry_run", action="store_true", help="print the tasks and do nothing")
    add(
        "command", nargs=argparse.REMAINDER, help="elm_train or elm_eval, and its flags"
    )
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace) -> None:
    """Raises ConfigError for options that cannot work on a cluster."""
    command, folder = options.command, ""
    for word in command:
        name, _, value = word.partition("=")
        folder = value if name.lstrip("-") == "gin.MODEL_DIR" else folder
    if not command or command[0] not in BINARIES:
        problem, expected = (
            f"the command {shlex.join(command)!r}",
            "elm_train or elm_eval, and flags",
        )
    elif options.shards < 1:
        problem, expected = f"--shards={options.shards}", "1 or more"
    elif not pathlib.PurePath(folder).is_absolute():
        problem = f"--gin.MODEL_DIR={folder}"
        expected = "an absolute path: workers run in folders of their own"
    else:
        return
    raise errors.ConfigError(
        found=problem, expected=expected, do="Correct it; see --help"
    )


def _resources(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what Ray is asked for, for each task."""
    pairs = [pair.split("=") for pair in options.resources.split(",") if pair]
    try:
        others = {name: float(amount) for name, amount in pairs}
    except ValueError as error:
        raise errors.ConfigError(
            found=f"--resources={options.resources}",
            expected="name=amount,name=amount",
            do="Correct it, for example --resources=TPU=4",
        ) from error
    return {
        "num_cpus": options.num_cpus,
        "num_gpus": options.num_gpus,
        "resources": others,
    }


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise errors.MissingExtraError(
            found="no package ray",
            expected="it, on every node of the cluster",
            do="Install the extra: pip install 'elm_jax[ray]', in a clone"
            " pip install -e '.[ray]'",
        ) from error
    return ray


def _train(options: argparse.Namespace, shards: Sequence[str]) -> None:
    ray = _import_ray()
    try:
        ray.init(address=options.address)
    except ConnectionError as error:
        raise errors.ConfigError(
            found=f"no Ray cluster at {options.address!r}: {error}",
            expected="a running one",
            do="Start it (ray start --head), give --address=host:port, or"
            " --address=local for one on this machine",
        ) from error
    task = ray.remote(
        max_calls=1,
        max_retries=options.max_retries,
        retry_exceptions=[InterruptedError],
        **_resources(options),
    )(run_shard)
    running = {task.remote(options.command, shard): shard for shard in shards}
    failed = {}
    while running:
        done, _ = ray.wait(list(running))
        shard = running.pop(done[0])
        try:
            ray.get(done[0])
        except (ray.exceptions.RayError, RuntimeError) as error:
            failed[shard] = error
        state = "failed" if shard in failed else "finished"
        print(f"ray: shard {shard} {state}, {len(running)} left", flush=True)  # noqa: T201
    ray.shutdown()
    if failed:
        texts = "\n".join(f"{shard}: {error}" for shard, error in failed.items())
        raise errors.TrainingError(
            found=f"{len(failed)} of {len(shards)} shards failed:\n{texts}",
            expected="all to finish",
            do="Mend what they say and give the same command again",
        )


if __name__ == "__main__":
    main(sys.argv[1:])

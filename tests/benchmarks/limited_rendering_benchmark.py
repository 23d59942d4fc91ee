"""What rendering in a process with limits costs, on DREAM and CoS-E.

    python tests/benchmarks/limited_rendering_benchmark.py DATA_DIR TEMPLATES_DIR TURNS

Every prompt of both datasets is rendered over its training split, as a file known by
its hash (here) and as a stranger's (in the process). Of each prompt and way the best of
some turns counts, so that a machine with much else to do changes little. Prints a line
of JSON: seconds of processor time of both processes together, the start of the one with
limits included, and on the clock, with their ratios. `--tiny` renders made rows.
"""

import dataclasses
import functools
import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from elm_jax.data import limited_rendering, rendering, tasks, templates
from elm_jax.limits import limited

PREFIXES = ("dream_", "cos_e_v1.11_")
Work = Sequence[tuple[templates.Template, Sequence[Any]]]


def official_work(data_dir: str, templates_dir: str) -> Work:
    """Returns the templates of both datasets with the rows that they render."""
    from tasks import original  # noqa: F401, PLC0415 - it registers

    data_options = tasks.DataOptions("", data_dir=data_dir, templates_dir=templates_dir)
    work = []
    for name in sorted(tasks.registry.expand("*")):
        task = tasks.registry.task(name)
        if name.startswith(PREFIXES) and isinstance(task, tasks.Task):
            template = rendering.load_template(task, "train", data_options)
            if isinstance(template, templates.Template):
                rows = list(rendering.served(task, "train", data_options).rows())
                work.append((template, rows))
    return work


def tiny_work() -> Work:
    """Returns a template with rows that are made."""
    template = templates.Template("t", "1", "{{ q }}? ||| {{ a }}", "yes ||| no")
    return [(template, [{"q": f"{n}", "a": "yes"} for n in range(600)])]


def measure(work: Work, turns: int) -> dict[str, Any]:
    """Returns seconds here and in the process, their ratios, and the rows rendered."""
    starts = [_secs(_start) for _ in range(turns)]
    totals = {False: _best(starts), True: (0.0, 0.0)}
    for template, rows in work:
        secs_by_way: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for _ in range(turns):
            for is_known, secs in secs_by_way.items():
                used = dataclasses.replace(template, is_known=is_known)
                secs.append(_secs(functools.partial(_render, used, rows)))
        for is_known, secs in secs_by_way.items():
            (cpu, wall), (more_cpu, more_wall) = totals[is_known], _best(secs)
            totals[is_known] = cpu + more_cpu, wall + more_wall
    (cpu, wall), (limited_cpu, limited_wall) = totals[True], totals[False]
    return {
        "benchmark": "limited_rendering",
        "templates": len(work),
        "rows": sum(len(rows) for _, rows in work),
        "start_secs": round(_best(starts)[0], 3),
        "here_secs": round(cpu, 3),
        "limited_secs": round(limited_cpu, 3),
        "ratio": round(limited_cpu / cpu, 3),
        "wall_ratio": round(limited_wall / wall, 3),
    }


def _start() -> None:
    limited.worker().close()
    template = templates.Template("t", "1", "a ||| b")
    limited_rendering.render(template, "train", [(0, {})], limited.DEFAULT)


def _render(template: templates.Template, rows: Sequence[Any]) -> None:
    rendering.render_rows(iter(rows), split="train", template=template)


def _secs(do: Callable[[], None]) -> tuple[float, float]:
    """Returns seconds of processor time, children's included, and on the clock."""
    before, since = _cpu_secs(), time.perf_counter()
    do()
    return _cpu_secs() - before, time.perf_counter() - since


def _cpu_secs() -> float:
    """Returns the processor time of this process and of all its children."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = pathlib.Path("/proc/self/task").glob("*/children")
    ids = [int(pid) for file in children for pid in file.read_text().split()]
    # Linux's name for another process's clock, as clock_getcpuclockid makes it.
    running = sum(time.clock_gettime(~pid << 3 | 2) for pid in ids)
    return time.process_time() + ended.ru_utime + ended.ru_stime + running


def _best(secs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(cpu for cpu, _ in secs), min(wall for _, wall in secs)


def main() -> None:
    """Prints the figures."""
    if sys.argv[1:] == ["--tiny"]:
        row = measure(tiny_work(), turns=1)
    else:
        row = measure(official_work(sys.argv[1], sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(row))  # noqa: T201


if __name__ == "__main__":
    main()

"""What opening a result store and a report of it cost; prints one JSON line.

    python -m tests.benchmarks.report_benchmark            # 296 experts x 113 prompts
    python -m tests.benchmarks.report_benchmark --num_experts=2000

The store is simulated, in a temporary folder unless `--folder` names one; one that
lies there is used again. Opening and reporting run in processes of their own. Their
seconds are of the processor, all threads together, without the imports; memory is the
most that the process had, imports included. Matrix products have one thread, as others
wait for work at full speed, which would count.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from elm_jax.evaluation import result_store
from elm_jax.runs import report
from tests.benchmarks import simulated_store


def main() -> None:
    """Builds the store, measures, and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_experts", type=int, default=296)
    parser.add_argument("--num_rows", type=int, default=300)
    parser.add_argument("--prompts", default="")
    parser.add_argument("--folder", default="")
    parser.add_argument("--measure", default="")
    options = parser.parse_args()
    numbers = [int(text) for text in options.prompts.split(",") if text]
    size = simulated_store.Size(
        num_experts=options.num_experts,
        num_rows=options.num_rows,
        prompts=tuple(numbers) or simulated_store.PROMPTS,
    )
    if options.measure:
        figures = MEASURED[options.measure](pathlib.Path(options.folder), size)
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(options.folder or temporary)
        row = {"benchmark": "report", "experts": size.num_experts}
        row |= {"prompts": len(size.names), "rows_of_a_dataset": size.num_rows}
        if not (folder / "results.jsonl").exists():
            start = time.process_time()
            simulated_store.build(folder, size)
            row["build_cpu_seconds"] = round(time.process_time() - start, 2)
        for name in MEASURED:
            row |= _measure(name, folder, size)
        files = [path for path in folder.rglob("*") if path.is_file()]
        row["store_files"] = sum("report" not in path.parts for path in files)
        row["store_bytes"] = sum(path.stat().st_size for path in files)
        print(json.dumps(row))


def _measure(
    name: str, folder: pathlib.Path, size: simulated_store.Size
) -> dict[str, object]:
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__]
    command += [f"--measure={name}", f"--folder={folder}"]
    command += [f"--num_experts={size.num_experts}", f"--num_rows={size.num_rows}"]
    command += [f"--prompts={','.join(map(str, size.prompts))}"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    return {f"{name}_{key}": value for key, value in figures.items()}


def _open(folder: pathlib.Path, size: simulated_store.Size) -> dict[str, object]:
    start, began = time.perf_counter(), time.process_time()
    number = len(result_store.ResultStore(folder / "results.jsonl").rows())
    seconds, cpu = time.perf_counter() - start, time.process_time() - began
    return {"result_rows": number, "seconds": round(seconds, 3), **_used(cpu)}


def _report(folder: pathlib.Path, size: simulated_store.Size) -> dict[str, object]:
    with simulated_store.registered(size) as names:
        run = report.Report(
            model_dir=str(folder),
            title="Simulated",
            unseen_tasks=names,
            split="validation",
        )
        began = time.process_time()
        run.run()
        used = _used(time.process_time() - began)
        page = run.path(run.output_path)
        return {**used, "page_bytes": page.stat().st_size}


def _used(cpu_seconds: float) -> dict[str, object]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu_seconds": round(cpu_seconds, 2), "peak_mib": round(peak / 1024)}


MEASURED = {"open": _open, "report": _report}


if __name__ == "__main__":
    main()

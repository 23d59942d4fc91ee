"""What the page of a report costs at the paper's size; prints one JSON line.

    python -m tests.benchmarks.page_benchmark       # 296 experts x 113 prompts

Scores and answers are drawn at random. Where there is a Chromium, the page is opened in
it; its times are of the wall clock, layout included.
"""

import argparse
import json
import pathlib
import tempfile
import time

import numpy as np

from elm_jax.evaluation import results
from elm_jax.reporting import page, pairs, report
from tests.reporting import browser

PROMPTS = (15, 15, 15, 15, 10, 10, 5, 9, 4, 5, 10)  # of the eleven unseen datasets
METHODS = ("base", "multitask", "retrieved", "merged_top3", "best_single")
TIMED = {
    "unfold": "expertMaps[0].foldAll.click()",
    "sort": "expertMaps[0].sort(40)",
    "filter": "expertMaps[0].nameSearch.value = '7'; expertMaps[0].show()",
    "compare": "pairTables[0].selects[0].value = 9; pairTables[0].show()",
}


def simulated(*, num_experts: int = 296, num_rows: int = 300) -> report.Report:
    """Returns a report of random answers."""
    rng = np.random.default_rng(0)
    experts = [f"dataset_{i // 8:02d}_prompt_{i:03d}" for i in range(num_experts)]
    tasks = [
        pairs.Task(
            f"data{j:02d}", f"ask{p:02d}", f"data{j:02d}_{p}", np.arange(num_rows)
        )
        for j, number in enumerate(PROMPTS)
        for p in range(number)
    ]
    answers = {
        name: {task.key: 100.0 * (rng.random(num_rows) < 0.5) for task in tasks}
        for name in (*METHODS, *experts)
    }
    rows = [
        results.ResultRow(
            kind="base" if name == "base" else "prompt",
            expert=name,
            base_fingerprint="0" * 16,
            task=task.task,
            dataset=task.dataset,
            prompt=task.prompt,
            split="validation",
            protocol="default",
            seed=0,
            checkpoint_step=0,
            run_id="simulated",
            metric="accuracy",
            value=float(answers[name][task.key].mean()),
            num_examples=num_rows,
        )
        for name in ("base", *experts)
        for task in tasks
    ]
    shown = report.heat_map(rows, title="Experts on unseen tasks: accuracy")
    models = [
        pairs.Model(name, answers[name], is_expert=name in experts)
        for name in (*METHODS, *shown.experts)
    ]
    compared = pairs.Pairs(tuple(tasks), tuple(models), "retrieved", "multitask")
    return report.Report(title="Simulated", heat_maps=(shown,), pairs=compared)


def main() -> None:
    """Draws the page, measures, and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_experts", type=int, default=296)
    parser.add_argument("--num_rows", type=int, default=300)
    options = parser.parse_args()
    drawn = simulated(num_experts=options.num_experts, num_rows=options.num_rows)
    began = time.process_time()
    text = page.render(drawn)
    figures: dict[str, object] = {
        "benchmark": "page",
        "experts": options.num_experts,
        "prompts": sum(PROMPTS),
        "rows_of_a_dataset": options.num_rows,
        "render_cpu_seconds": round(time.process_time() - began, 2),
        "page_bytes": len(text.encode()),
    }
    if browser.find():
        with tempfile.TemporaryDirectory() as folder, browser.opened() as tab:
            path = pathlib.Path(folder, "page.html")
            path.write_text(text)
            start = time.perf_counter()
            tab.open(path)
            figures["open_seconds"] = round(time.perf_counter() - start, 2)
            for name, action in TIMED.items():
                start = time.perf_counter()
                tab.run(f"{action}; document.body.offsetHeight")
                figures[f"{name}_seconds"] = round(time.perf_counter() - start, 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

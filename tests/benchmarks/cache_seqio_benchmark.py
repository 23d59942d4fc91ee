"""Examples per second into a token cache, ours against SeqIO; prints one JSON line.

Usage: python tests/benchmarks/cache_seqio_benchmark.py DATA_DIR [VOCABULARY]
Both ways render and tokenise the same rows of DREAM and CoS-E in the same run, five
times by turns; a ratio is the median of the turns' ratios, so that a busy machine slows
both. Ours also writes its cache to disk; SeqIO's only iterates as NumPy arrays. SeqIO's
way is T0's: a `seqio.Task` whose rows are rendered one by one in a generator (by our
renderer, which is faster than T0's) and tokenised by TensorFlow. `seqio_slices` is our
own task as `seqio_tasks.to_seqio` makes it, which hands TensorFlow all rendered rows at
once. Per core: examples per second of processor time, all threads together. Without
VOCABULARY one of 8,000 pieces is trained on the rows first: about as many tokens per
text as with T5's. Then a prompt expert's 50,000 examples are cached by two processes,
with the memory of all of them.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time

from elm_jax.data import (
    cache,
    cache_build,
    promptsource,
    rendering,
    seqio_tasks,
    sources,
    tasks,
    tensorflow_imports,
    vocabulary,
    vocabulary_training,
)
from tasks import original  # noqa: F401 - registers tasks

FEATURES = tasks.Features(inputs_length=512, targets_length=64)
NAMES = ("dream_baseline", "cos_e_v1.11_question_option_description_text")
NUM_EXAMPLES = 50_000
NUM_TURNS = 5
NUM_PIECES = 8_000


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Rows of another source, over and over."""

    source: sources.Source
    count: int

    def rows(self, split, *, data_dir):
        rows = list(self.source.rows(split, data_dir=data_dir))
        yield from itertools.islice(itertools.cycle(rows), self.count)

    def fingerprint(self, split, *, data_dir):
        return f"{self.count}{self.source.fingerprint(split, data_dir=data_dir)}"


def timed(fn):
    wall, cpu = time.perf_counter(), time.process_time()
    return fn(), time.perf_counter() - wall, time.process_time() - cpu


def generated(task, data_options):
    """A SeqIO dataset function that renders row by row."""
    import tensorflow as tf

    def dataset_fn(split, shuffle_files, seed=None):
        del shuffle_files, seed
        template = rendering.load_template(task, split, data_options)
        served = rendering.served(task, split, data_options)

        def examples():
            for number, row in enumerate(served.rows()):
                rendered = rendering.render_rows(
                    [row], split=split, template=template, start=number
                )
                for texts in zip(rendered.inputs, rendered.targets, strict=True):
                    yield dict(zip(("inputs", "targets"), texts, strict=True))

        spec = {name: tf.TensorSpec((), tf.string) for name in ("inputs", "targets")}
        return tf.data.Dataset.from_generator(examples, output_signature=spec)

    return dataset_fn


def with_seqio(pairs, vocab, data_options, *, slices):
    import seqio

    count = 0
    for name, split in pairs:
        task = tasks.registry.task(name)
        seqio_task = seqio_tasks.to_seqio(
            task, vocabulary=vocab, features=FEATURES, data_options=data_options
        )
        if not slices:
            seqio_task = seqio.Task(
                name,
                source=seqio.FunctionDataSource(
                    generated(task, data_options), splits=seqio_task.splits
                ),
                preprocessors=seqio_task.preprocessors,
                output_features=seqio_task.output_features,
            )
        lengths = {"inputs": FEATURES.inputs_length, "targets": FEATURES.targets_length}
        dataset = seqio_task.get_dataset(lengths, split, shuffle=False)
        count += sum(1 for _ in dataset.as_numpy_iterator())
    return count


def plan(pairs, vocab, data_options, folder):
    data_options = dataclasses.replace(data_options, cache_dir=str(folder))
    return [
        cache.planned(
            *pair, vocabulary=vocab, features=FEATURES, data_options=data_options
        )
        for pair in pairs
    ]


def with_ours(pairs, vocab, data_options, folder):
    count = 0
    for build in plan(pairs, vocab, data_options, folder):
        cache_build.build_here(build)
        manifest = json.loads((build.folder / "manifest.json").read_text())
        count += manifest["num_examples"]
    return count


def make_expert(path, data_options, folder):
    """Two processes cache 50,000 examples of DREAM; seconds and memory of all three.

    In a process of its own, whose memory holds nothing else.
    """
    dream = tasks.registry.task("dream_baseline")
    assert isinstance(dream, tasks.Task)
    source = Repeated(dream.source, NUM_EXAMPLES)
    name = "dream_baseline_repeated"
    tasks.registry.add(dataclasses.replace(dream, name=name, source=source))
    builds = plan(
        [(name, "train")], vocabulary.SentencePiece(path), data_options, folder
    )
    failed, secs, _ = timed(lambda: cache_build.build_all(builds, num_workers=2))
    assert not failed
    parent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "expert_examples": NUM_EXAMPLES,
        "expert_secs": round(secs, 1),
        "expert_peak_mib": round((parent + 2 * worker) / 1024),
    }


def trained(pairs, data_options, path):
    """A vocabulary of all texts of the tasks."""
    texts = {}
    for name, split in pairs:
        rendered = rendering.render_split(
            tasks.registry.task(name), split, data_options
        )
        texts.update(dict.fromkeys((*rendered.inputs, *rendered.targets)))
    vocabulary_training.train_vocabulary(texts, path, vocab_size=NUM_PIECES)
    return str(path)


def take_turns(ways):
    """Seconds by way and kind, a list over turns, and the number of examples."""
    secs = {(way, kind): [] for way in ways for kind in ("per_sec", "per_core_sec")}
    counts = set()
    order = list(ways)
    for _ in range(NUM_TURNS):
        for way in order:
            count, wall, cpu = timed(ways[way])
            counts.add(count)
            secs[way, "per_sec"].append(wall)
            secs[way, "per_core_sec"].append(cpu)
        order.append(order.pop(0))
    assert len(counts) == 1, counts
    return secs, counts.pop()


def main():
    pairs = [(name, s) for name in NAMES for s in ("train", "validation", "test")]
    pairs = [(n, s) for n, s in pairs if s in tasks.registry.task(n).splits]
    result = {"benchmark": "cache_seqio", "turns": NUM_TURNS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        templates_dir = promptsource.fetch_templates(folder / "templates")
        data_options = tasks.DataOptions(
            cache_dir="", data_dir=sys.argv[1], templates_dir=str(templates_dir)
        )
        path = (
            sys.argv[2]
            if len(sys.argv) > 2
            else trained(pairs, data_options, folder / "vocabulary.model")
        )
        vocab = vocabulary.SentencePiece(path)
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, context) as alone:
            expert = alone.submit(make_expert, path, data_options, folder / "expert")
            result |= expert.result()
        tensorflow_imports.import_seqio()
        turn = itertools.count()
        secs, count = take_turns(
            {
                "ours": lambda: with_ours(
                    pairs, vocab, data_options, folder / f"{next(turn)}"
                ),
                "seqio": lambda: with_seqio(pairs, vocab, data_options, slices=False),
                "seqio_slices": lambda: with_seqio(
                    pairs, vocab, data_options, slices=True
                ),
            }
        )
    result |= {"num_examples": count, "load": round(os.getloadavg()[0], 1)}
    for (way, kind), each in secs.items():
        result[f"{way}_{kind}"] = round(count / statistics.median(each))
        if way != "ours":
            ratios = [a / b for a, b in zip(each, secs["ours", kind], strict=True)]
            result[f"ratio_{way}_{kind}"] = round(statistics.median(ratios), 2)
            result[f"least_ratio_{way}_{kind}"] = round(min(ratios), 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Examples per second into a token cache, ours against SeqIO; prints one JSON line.

Usage: python tests/benchmarks/cache_seqio_benchmark.py DATA_DIR [VOCABULARY]
Both ways render and tokenise the same rows of DREAM and CoS-E in the same run, three
times by turns; the best of each counts. SeqIO's way is T0's: a `seqio.Task` whose rows
are rendered one by one in a generator (by our renderer, which is faster than T0's) and
tokenised by TensorFlow, iterated as NumPy arrays. `seqio_slices` is our own task as
`seqio_tasks.to_seqio` makes it, which hands TensorFlow all rendered rows at once.
Per core: examples per second of processor time, all threads together. Then a prompt
expert's 50,000 examples are cached by two processes, with the memory of all of them.
"""

import dataclasses
import itertools
import json
import pathlib
import resource
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
    vocabulary,
)
from tasks import original, pocket  # noqa: F401 - registers tasks

FEATURES = tasks.Features(inputs_length=512, targets_length=64)
NAMES = ("dream_baseline", "cos_e_v1.11_question_option_description_text")
NUM_EXAMPLES = 50_000


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Rows of another source, over and over."""

    source: sources.Source
    count: int

    def rows(self, split, *, data_dir):
        found = list(self.source.rows(split, data_dir=data_dir))
        yield from itertools.islice(itertools.cycle(found), self.count)

    def fingerprint(self, split, *, data_dir):
        return f"{self.count}{self.source.fingerprint(split, data_dir=data_dir)}"


def timed(fn):
    wall, cpu = time.perf_counter(), time.process_time()
    return fn(), time.perf_counter() - wall, time.process_time() - cpu


def generated(task, places):
    """A SeqIO dataset function that renders row by row."""
    import tensorflow as tf

    def dataset_fn(split, shuffle_files, seed=None):
        del shuffle_files, seed
        template = rendering.load_template(task, split, places)
        served = rendering.served(task, split, places)

        def examples():
            for number, row in enumerate(served.rows()):
                found = rendering.render_rows(
                    [row], split=split, template=template, start=number
                )
                for texts in zip(found.inputs, found.targets, strict=True):
                    yield dict(zip(("inputs", "targets"), texts, strict=True))

        spec = {name: tf.TensorSpec((), tf.string) for name in ("inputs", "targets")}
        return tf.data.Dataset.from_generator(examples, output_signature=spec)

    return dataset_fn


def with_seqio(pairs, vocab, places, *, slices):
    import seqio

    count = 0
    for name, split in pairs:
        task = tasks.registry.task(name)
        theirs = seqio_tasks.to_seqio(
            task, vocabulary=vocab, features=FEATURES, places=places
        )
        if not slices:
            theirs = seqio.Task(
                name,
                source=seqio.FunctionDataSource(
                    generated(task, places), splits=theirs.splits
                ),
                preprocessors=theirs.preprocessors,
                output_features=theirs.output_features,
            )
        lengths = {"inputs": FEATURES.inputs_length, "targets": FEATURES.targets_length}
        dataset = theirs.get_dataset(lengths, split, shuffle=False)
        count += sum(1 for _ in dataset.as_numpy_iterator())
    return count


def plan(pairs, vocab, places, folder):
    places = dataclasses.replace(places, cache_dir=str(folder))
    return [
        cache.planned(*pair, vocabulary=vocab, features=FEATURES, places=places)
        for pair in pairs
    ]


def with_ours(pairs, vocab, places, folder):
    count = 0
    for build in plan(pairs, vocab, places, folder):
        cache_build.build_here(build)
        manifest = json.loads((build.folder / "manifest.json").read_text())
        count += manifest["num_examples"]
    return count


def expert_secs(vocab, places, folder):
    """Seconds until 50,000 examples of DREAM are ready, by two processes."""
    dream = tasks.registry.task("dream_baseline")
    assert isinstance(dream, tasks.Task)
    source = Repeated(dream.source, NUM_EXAMPLES)
    name = "dream_baseline_repeated"
    tasks.registry.add(dataclasses.replace(dream, name=name, source=source))
    builds = plan([(name, "train")], vocab, places, folder)
    failed, secs, _ = timed(lambda: cache_build.build_all(builds, num_workers=2))
    assert not failed
    return secs


def main():
    vocab = vocabulary.SentencePiece(
        sys.argv[2] if len(sys.argv) > 2 else pocket.VOCABULARY.path
    )
    pairs = [(name, s) for name in NAMES for s in ("train", "validation", "test")]
    pairs = [(n, s) for n, s in pairs if s in tasks.registry.task(n).splits]
    result = {"benchmark": "cache_seqio"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        templates_dir = promptsource.fetch_templates(folder / "templates")
        places = tasks.Places(
            cache_dir="", data_dir=sys.argv[1], templates_dir=str(templates_dir)
        )
        result["expert_secs"] = round(expert_secs(vocab, places, folder / "expert"), 1)
        result["expert_examples"] = NUM_EXAMPLES
        parent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        result["expert_peak_mib"] = round((parent + 2 * worker) / 1024)
        seqio_tasks.import_seqio()
        best = {}
        for turn in range(3):
            ways = {
                "ours": lambda t=turn: with_ours(pairs, vocab, places, folder / str(t)),
                "seqio": lambda: with_seqio(pairs, vocab, places, slices=False),
                "seqio_slices": lambda: with_seqio(pairs, vocab, places, slices=True),
            }
            counts = set()
            for way, fn in ways.items():
                count, *secs = timed(fn)
                counts.add(count)
                for kind, value in zip(("per_sec", "per_core_sec"), secs, strict=True):
                    key = f"{way}_{kind}"
                    best[key] = max(best.get(key, 0), round(count / value))
            assert len(counts) == 1, counts
            result["num_examples"] = counts.pop()
    result |= best
    for way in ("seqio", "seqio_slices"):
        for kind in ("per_sec", "per_core_sec"):
            ratio = best[f"ours_{kind}"] / best[f"{way}_{kind}"]
            result[f"ratio_{way}_{kind}"] = round(ratio, 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

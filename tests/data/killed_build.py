"""Builds caches of many parts in processes; a test kills it on the way.

Usage: python -m tests.data.killed_build VOCABULARY CACHE_DIR NUM_WORKERS
"""

import sys

from elm_jax.data import cache, cache_build, sources, tasks, templates, vocabulary

FEATURES = tasks.Features(inputs_length=64, targets_length=8)
NUM_ROWS = 20_000


def rows(split):
    for i in range(NUM_ROWS if split == "train" else 100):
        yield {"q": f"row {i} of {split}: is it odd or even?", "l": i % 2}


def wrong_rows(split):
    del split
    yield from ({"q": "a"} for _ in range(9))


TEMPLATE = templates.Template(
    "ask",
    "1",
    "{{q}} {{ [1, 2, 3] | choice }} ||| {{answer_choices[l]}}",
    "even ||| odd",
)


def add_tasks():
    for name, fn in (("odd", rows), ("wrong", wrong_rows)):
        source = sources.GeneratedRows(fn, version="1")
        tasks.registry.add(
            tasks.Task(name, name, "ask", "none", source, TEMPLATE, ("accuracy",))
        )


def builds(vocabulary_path, cache_dir, pairs):
    data_options = tasks.DataOptions(cache_dir=cache_dir)
    vocab = vocabulary.SentencePiece(vocabulary_path)
    return [
        cache.planned(
            *pair, vocabulary=vocab, features=FEATURES, data_options=data_options
        )
        for pair in pairs
    ]


def main():
    add_tasks()
    pairs = [("odd", "train"), ("odd", "test")]
    planned = builds(sys.argv[1], sys.argv[2], pairs)
    failed = cache_build.build_all(planned, num_workers=int(sys.argv[3]))
    print("failed:", *failed, flush=True)


if __name__ == "__main__":
    # Under the module's own name: it is part of what names a cache.
    from tests.data import killed_build

    killed_build.main()

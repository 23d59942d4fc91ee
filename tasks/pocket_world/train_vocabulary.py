"""Trains the suite's SentencePiece model on its prose and its training prompts.

    python -m tasks.pocket_world.train_vocabulary [FILE]

Run again it gives the same file; the one in this folder is the suite's. Of held-out
datasets it reads the wording of the prompts and no rows.
"""

import collections
import contextlib
import io
import itertools
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import sentencepiece

from elm_jax.data import templates
from elm_jax.disk import files
from tasks import pocket
from tasks.pocket_world import prose

SIZE = 476
NUM_DOCUMENTS = 8_000
NUM_ROWS = 200

# Single characters that other texts may need, although the world does not.
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"-()/"
# White space of every kind reads as a space: "source<TAB>target", in hexadecimal.
NORMALIZATION = "9\t20\nA\t20\nD\t20\n"


def texts() -> Iterator[str]:
    """Yields prose, rendered training rows, and the wording of held-out prompts."""
    for row in itertools.islice(prose.rows("train"), NUM_DOCUMENTS):
        yield row["text"]
    for task in pocket.all_tasks():
        template = task.template.load("")
        if task.role != "train":
            yield from [
                re.sub(r"\{\{.*?\}\}", " ", getattr(template, "jinja", ""))
            ] * NUM_ROWS
            continue
        source_rows = task.source.rows("train", data_dir="")
        for index, row in enumerate(itertools.islice(source_rows, NUM_ROWS)):
            rendered = template.render(row, seed=index)  # pyright: ignore
            if isinstance(rendered, templates.Rendered):
                yield f"{rendered.inputs} {rendered.targets}"


def seed_pieces(documents: list[str]) -> str:
    """Returns candidate pieces and counts, one per line: words and parts of words.

    SentencePiece finds its own candidates among parts that several words share, and
    so would split most words of so small a world.
    """
    counts: collections.Counter[str] = collections.Counter()
    occurrences = collections.Counter(
        word for text in documents for word in re.findall(r"[A-Za-z]+", text)
    )
    for word, count in occurrences.items():
        counts["\N{LOWER ONE EIGHTH BLOCK}" + word] += 20 * count
        for start, length in itertools.product(range(len(word)), (2, 3, 4)):
            if start + length <= len(word):
                counts[word[start : start + length]] += count
    return "".join(f"{piece}\t{count}\n" for piece, count in counts.most_common(3_000))


def train() -> bytes:
    """Returns the trained model, with T5's special ids and no byte fallback."""
    documents = list(texts())
    model = io.BytesIO()
    trainer: Any = sentencepiece.SentencePieceTrainer
    # The model remembers the names of these two files: relative ones stay the same.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        pathlib.Path("seeds.tsv").write_text(seed_pieces(documents), "utf-8")
        pathlib.Path("rules.tsv").write_text(NORMALIZATION, "utf-8")
        trainer.train(
            sentence_iterator=iter(documents),
            model_writer=model,
            model_type="unigram",
            vocab_size=SIZE,
            seed_sentencepieces_file="seeds.tsv",
            normalization_rule_tsv="rules.tsv",
            required_chars=LETTERS,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    return model.getvalue()


def main() -> None:
    """Writes the model to the file named on the command line, or to its place."""
    path = pathlib.Path(*sys.argv[1:] or [pocket.VOCABULARY.path]).resolve()
    files.write_bytes(path, train())


if __name__ == "__main__":
    main()

"""Rows of the generative tasks: parsers of files, and how rows are put together.

Continual-T0 made these tasks of public datasets and kept them as prompts and targets;
`prompted` reads its files. Without them the same rows come from the datasets
themselves, cut and filtered as Continual-T0 did. What that means:

- *Wiki-Auto* is the pairs of the ACL paper; the last 4,000 are the test, the 6,000
  before them validate.
- *ELI5* keeps questions that begin with W or H and have one question mark, with the
  answer of the highest score.
- *Empathetic Dialogues* gives one row per reply: all that was said before, and it.
- *Tatoeba Challenge* is for the translation experts of the compositional tasks.
- *Tweets* are those with a hashtag that more words follow; 250 test and 250 validate.

Reference: github.com/ThomasScialom/T0_continual_learning (arXiv 2205.12393).
"""

import collections
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from elm_jax.data import regrouping, row_files, serving, sources

Rows = Iterator[sources.Record]
Paths = Sequence[pathlib.Path]

NUM_TATOEBA_TRAIN = 500_000
NUM_WIKI_AUTO_HELD_OUT, NUM_WIKI_AUTO_TEST = 10_000, 4_000
_NUM_TWEETS_HELD_OUT, _SEED = 250, 42
_UTTERANCE = (
    *("conv_id", "utterance_idx", "context"),
    *("prompt", "speaker_idx", "utterance"),
)
_NLI_LABELS = ("entailment", "neutral", "contradiction")


def prompted(paths: Paths, split: str) -> Rows:
    """Yields the prompts and targets of a file of Continual-T0's.

    A target may be a list of references; the first is the target.

    Args:
      paths: The file to read first. Others only have to exist: their rows were drawn in
        another way, and must not be mixed with ours.
      split: Name of the split.
    """
    del split
    content = row_files.read_json(paths[0])
    for prompt, target in zip(content["src"], content["tgt"], strict=True):
        text = target if isinstance(target, str) else target[0]
        yield sources.Prompted(prompt.strip(), text.strip())


def parallel_lines(paths: Paths, split: str) -> Rows:
    """Yields pairs of lines of two files as normal and simple sentence."""
    del split
    normal, simple = map(row_files.read_lines, paths)
    for normal_line, simple_line in zip(normal, simple, strict=True):
        yield {"normal_sentence": normal_line, "simple_sentence": simple_line}


def asset(paths: Paths, split: str) -> Rows:
    """Yields each sentence of the first file with its lines of the others."""
    del split
    columns = map(row_files.read_lines, paths)
    for original, *simplifications in zip(*columns, strict=True):
        yield {
            "original": original.strip(),
            "simplifications": [text.strip() for text in simplifications],
        }


def tatoeba(paths: Paths, split: str) -> Rows:
    """Yields pairs of sentences, of a training file 500,000 spread evenly over it.

    The original code takes as many at random, without a seed.
    """
    count = NUM_TATOEBA_TRAIN
    if split == "train":
        count = sum(1 for _ in _open_text(paths[0]))
    english, others = map(_open_text, paths)
    last_place = -1
    for number, (source, target) in enumerate(zip(english, others, strict=True)):
        place = number * NUM_TATOEBA_TRAIN // count
        if place > last_place or count <= NUM_TATOEBA_TRAIN:
            last_place = place
            yield {"source": source.strip(), "target": target.strip()}


def _open_text(path: pathlib.Path) -> Iterator[str]:
    with row_files.open_text(path) as file:
        yield from file


def haiku(paths: Paths, split: str) -> Rows:
    """Yields a request for a haiku and the haiku, as Continual-T0 keeps them."""
    for record in sources.json_lines(paths, split):
        pair = record["translation"]
        yield {"request": pair["en1"], "haiku": pair["en2"]}


def covid_qa(paths: Paths, split: str) -> Rows:
    """Yields one row per question of COVID-QA's file, which has SQuAD's form."""
    del split
    articles = (a for path in paths for a in row_files.read_json(path)["data"])
    for paragraph in (p for article in articles for p in article["paragraphs"]):
        for question in paragraph["qas"]:
            yield {
                "id": question["id"],
                "question": question["question"],
                "is_impossible": question.get("is_impossible", False),
                "answers": {"text": [a["text"] for a in question["answers"]]},
            }


def esnli(paths: Paths, split: str) -> Rows:
    """Yields e-SNLI's records in the fields of TFDS and the Hub."""
    return row_files.converted(sources.csv_rows(paths, split), _esnli_row)


def _esnli_row(record: sources.Row) -> sources.Row | sources.Skipped:
    if record["gold_label"] not in _NLI_LABELS:
        return sources.Skipped("no gold label")
    return {
        "premise": record["Sentence1"],
        "hypothesis": record["Sentence2"],
        "label": _NLI_LABELS.index(record["gold_label"]),
        "explanation_1": record["Explanation_1"],
    }


def empathetic(paths: Paths, split: str) -> Rows:
    """Yields one row per reply of the authors' files."""
    return dialogues(_utterances(paths), split)


def _utterances(paths: Paths) -> Rows:
    """Yields the lines of the authors' files, which only look like CSV.

    Every comma ends a field: in texts they are written `_comma_`. Quotes have no
    special meaning, and candidates may follow the last field that the header names.
    """
    for path in paths:
        header, *lines = row_files.read_lines(path)
        names = header.split(",")
        for number, line in enumerate(lines, 2):
            fields = line.split(",")
            if len(fields) < len(_UTTERANCE):
                message = f"{len(fields)} fields in line {number} of {path.name}"
                yield sources.Bad(row_files.RAGGED, message)
                continue
            yield dict(zip(names, fields, strict=False))


def tweets(paths: Paths, split: str) -> Rows:
    """Yields tweets with a hashtag, each once; the split is drawn with seed 42."""
    by_content: dict[tuple[str, str], sources.Row] = {}
    for record in sources.csv_rows(paths, split):
        if isinstance(record, sources.Bad):
            yield record
            continue
        hashtag = _hashtag(record["content"])
        if hashtag:
            key = (record["author"], record["content"])
            by_content[key] = {**record, "hashtag_token": hashtag}
    order = serving.torch_permutation(len(by_content), _SEED)
    held_out = _NUM_TWEETS_HELD_OUT
    part = {
        "test": order[:held_out],
        "validation": order[held_out : 2 * held_out],
        "train": order[2 * held_out :],
    }[split]
    rows = list(by_content.values())
    yield from (rows[number] for number in part)


def _hashtag(text: str) -> str:
    """Returns the first hashtag if another word follows it, else "".

    >>> _hashtag("Go #team go!"), _hashtag("Go #team")
    ('#team', '')
    """
    words = text.split("#")[1].split() if "#" in text else []
    return f"#{words[0]}" if len(words) > 1 else ""


def wiki_auto(rows: Iterable[sources.Record], split: str) -> Rows:
    """Yields all but the last 10,000 pairs, the first 6,000 of these, or the rest."""
    held_out: collections.deque[sources.Record] = collections.deque()
    for row in rows:
        held_out.append(row)
        if len(held_out) > NUM_WIKI_AUTO_HELD_OUT:
            oldest = held_out.popleft()
            if split == "train":
                yield oldest
    if split == "train":
        return
    # A file too short for a training part is all test.
    start = max(len(held_out) - NUM_WIKI_AUTO_TEST, 0)
    for number, row in enumerate(held_out):
        if (number >= start) == (split == "test"):
            yield row


def eli5(rows: Iterable[sources.Record], split: str) -> Rows:
    """Yields questions with their best answer; others are skipped."""
    del split
    for row in rows:
        if not isinstance(row, Mapping):
            yield row
            continue
        question = row["title"]
        if question[:1] not in ("W", "H") or question.count("?") != 1:
            yield sources.Skipped("no question that begins with W or H")
            continue
        scores = row["answers"]["score"]
        best = row["answers"]["text"][scores.index(max(scores))]
        yield {"question": question, "text": best}


def eli5_files(paths: Paths, split: str) -> Rows:
    """Yields questions with their best answer from JSON lines."""
    yield from eli5(sources.json_lines(paths, split), split)


def dialogues(rows: Iterable[sources.Record], split: str) -> Rows:
    """Yields one row per reply, with all that was said before it.

    A dialogue is kept from its first utterance on; an utterance that
    repeats a speaker or leaves a number out is skipped, as Continual-T0 does.
    """
    del split
    said: list[str] = []
    last: Mapping[str, Any] = {}
    for row in rows:
        if not isinstance(row, Mapping):
            yield row
            continue
        number = int(row["utterance_idx"])
        if row["conv_id"] != last.get("conv_id"):
            said = [_plain(row["utterance"])] if number == 1 else []
            last = {**row, "utterance_idx": number}
            continue
        follows = number == last["utterance_idx"] + 1
        if not said or not follows or row["speaker_idx"] == last["speaker_idx"]:
            continue
        reply = _plain(row["utterance"])
        yield {
            "emotion": row["context"],
            "situation": _plain(row["prompt"]),
            "dialogue": list(said),
            "reply": reply,
        }
        said.append(reply)
        last = {**row, "utterance_idx": number}


def _plain(text: str) -> str:
    return text.replace("_comma_", ",")


REGROUP: Mapping[str, regrouping.RegroupFn] = {
    "wiki_auto": wiki_auto,
    "eli5": eli5,
    "dialogues": dialogues,
}

_ASSET = {"validation": "valid", "test": "test"}
_SPLITS = ("train", "validation", "test")
_WIKI_AUTO = sources.FileRows(
    parallel_lines,
    {"full": ["wiki_auto/train.src", "wiki_auto/train.dst"]},
    origin="github.com/chaojiang06/wiki-auto, folder wiki-auto/ACL2020",
)
FILES: Mapping[str, sources.FileRows | regrouping.Regrouped] = {
    "wiki_auto": regrouping.Regrouped(
        _WIKI_AUTO, wiki_auto, dict.fromkeys(_SPLITS, "full")
    ),
    "asset": sources.FileRows(
        asset,
        {
            split: [f"asset/asset.{file_split}.orig"]
            + [f"asset/asset.{file_split}.simp.{number}" for number in range(10)]
            for split, file_split in _ASSET.items()
        },
        origin="github.com/facebookresearch/asset, folder dataset",
    ),
    "haiku": sources.FileRows(
        haiku,
        {"train": ["haiku/haikutrain.json"], "test": ["haiku/haikutest.json"]},
        origin="github.com/ThomasScialom/T0_continual_learning, folder "
        "t0_continual_learning/additional_datasets/haiku",
    ),
    "covid_qa": sources.FileRows(
        covid_qa,
        {"train": ["covid_qa/COVID-QA.json"]},
        origin="github.com/deepset-ai/COVID-QA, folder data/question-answering",
    ),
    "eli5": sources.FileRows(
        eli5_files,
        {split: [f"eli5/{split}_asks.jsonl"] for split in _SPLITS},
        origin="facebookresearch.github.io/ELI5, whose scripts make it of Reddit",
    ),
    "emdg": sources.FileRows(
        empathetic,
        {
            "train": ["empatheticdialogues/train.csv"],
            "validation": ["empatheticdialogues/valid.csv"],
            "test": ["empatheticdialogues/test.csv"],
        },
        origin="github.com/facebookresearch/EmpatheticDialogues",
    ),
    "esnli": sources.FileRows(
        esnli,
        {
            "train": ["esnli/esnli_train_1.csv", "esnli/esnli_train_2.csv"],
            "validation": ["esnli/esnli_dev.csv"],
            "test": ["esnli/esnli_test.csv"],
        },
        origin="github.com/OanaMariaCamburu/e-SNLI, folder dataset",
    ),
    "twitter": sources.FileRows(
        tweets,
        dict.fromkeys(_SPLITS, ["twitter/tweets.csv"]),
        origin="Harvard Dataverse, doi:10.7910/DVN/JBXKFD, tweets.csv",
    ),
}
CROSSSUM: Mapping[str, sources.FileRows] = {
    f"xlsum_{language}": sources.FileRows(
        sources.json_lines,
        {
            "train": [f"crosssum/english-{language}_train.jsonl"],
            "validation": [f"crosssum/english-{language}_val.jsonl"],
            "test": [f"crosssum/english-{language}_test.jsonl"],
        },
        origin="github.com/csebuetnlp/CrossSum",
    )
    for language in ("korean", "spanish", "chinese_simplified", "japanese", "french")
}
TATOEBA: Mapping[str, sources.FileRows] = {
    f"tatoeba_eng_{language}": sources.FileRows(
        tatoeba,
        {
            split: [
                f"tatoeba/eng-{language}/{split}.{side}.gz"
                f"|tatoeba/eng-{language}/{split}.{side}"
                for side in ("src", "trg")
            ]
            for split in ("train", "dev", "test")
        },
        origin=f"object.pouta.csc.fi, Tatoeba-Challenge-v2021-08-07/eng-{language}.tar",
    )
    for language in ("kor", "spa", "zho", "jpn", "fra")
}

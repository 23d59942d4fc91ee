"""Datasets of questions and answers in their authors' public files.

Rows have the fields that PromptSource's templates expect. Written from the published
forms of the files, and tested on small files of those forms; the authors' own were not
available. Only splits whose labels are public exist.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elm_jax.data import row_files, sources

Rows = Iterator[sources.Record]
Paths = Sequence[pathlib.Path]


def _json(paths: Paths) -> Iterator[Any]:
    return map(row_files.read_json, paths)


def _records(paths: Paths) -> Iterator[Mapping[str, Any]]:
    """Yields the items of JSON files that are lists."""
    return (record for records in _json(paths) for record in records)


def _columns(items: Sequence[Mapping[str, Any]], *names: str) -> dict[str, list[Any]]:
    """Returns a list of objects as an object of lists.

    >>> _columns([{"a": 1, "b": 2}, {"a": 3}], "a")
    {'a': [1, 3]}
    """
    return {name: [item[name] for item in items] for name in names}


def stem_and_choices(paths: Paths, split: str) -> Rows:
    """Yields questions whose choices are objects, as QuaRTz and QASC have them."""
    for record in sources.json_lines(paths, split):
        question = record["question"]
        choices = _columns(question["choices"], "text", "label")
        yield {**record, "question": question["stem"], "choices": choices}


def social_i_qa(paths: Paths, split: str) -> Rows:
    """Yields the lines of the first file with the labels of the second."""
    lines, labels = paths
    label_texts = row_files.read_text(labels).split()
    records = list(sources.json_lines([lines], split))
    for record, label in zip(records, label_texts, strict=True):
        yield {**record, "label": label}


def wiqa(paths: Paths, split: str) -> Rows:
    """Yields one row per question, its nested fields joined by underscores."""
    for record in sources.json_lines(paths, split):
        question, metadata = record["question"], record["metadata"]
        yield {
            "question_stem": question["stem"],
            "question_para_step": question["para_steps"],
            "answer_label": question["answer_label"],
            "answer_label_as_choice": question["answer_label_as_choice"],
            "choices": _columns(question["choices"], "text", "label"),
            "metadata_question_id": metadata["ques_id"],
            "metadata_question_type": metadata["question_type"],
        }


def quarel(paths: Paths, split: str) -> Rows:
    """Yields the lines with one-item lists of world literals."""
    for record in sources.json_lines(paths, split):
        literals = record["world_literals"]
        worlds = {
            name: value if isinstance(value, list) else [value]
            for name, value in literals.items()
        }
        yield {**record, "world_literals": worlds}


def json_list(paths: Paths, split: str) -> Rows:
    """Yields the items of a JSON list as they are."""
    del split
    yield from _records(paths)


def wiki_hop(paths: Paths, split: str) -> Rows:
    """Yields the items of a JSON list, `query` called `question`."""
    del split
    for record in _records(paths):
        yield {**record, "question": record["query"]}


def squad(paths: Paths, split: str) -> Rows:
    """Yields one row per question of files in SQuAD's form (or ROPES')."""
    articles = (article for content in _json(paths) for article in content["data"])
    for article in articles:
        for paragraph in article["paragraphs"]:
            shared = {k: v for k, v in paragraph.items() if k != "qas"}
            for question in paragraph["qas"]:
                answers = question["answers"]
                yield {
                    "title": article.get("title", ""),
                    **shared,
                    "id": question["id"],
                    "question": question["question"],
                    "answers": {"text": [answer["text"] for answer in answers]},
                    "metadata": {"split": split},
                }


def duorc(paths: Paths, split: str) -> Rows:
    """Yields one row per question of every plot."""
    del split
    for record in _records(paths):
        for question in record["qa"]:
            yield {
                "plot_id": record["id"],
                "plot": record["plot"],
                "title": record["title"],
                "question_id": question["id"],
                "question": question["question"],
                "answers": question["answers"],
                "no_answer": question["no_answer"],
            }


def hotpot_qa(paths: Paths, split: str) -> Rows:
    """Yields questions with facts and context as lists of titles and of sentences."""
    del split
    for record in _records(paths):
        facts, context = record["supporting_facts"], record["context"]
        yield {
            "id": record["_id"],
            "question": record["question"],
            "answer": record["answer"],
            "type": record["type"],
            "level": record["level"],
            "supporting_facts": {
                "title": [title for title, _ in facts],
                "sent_id": [number for _, number in facts],
            },
            "context": {
                "title": [title for title, _ in context],
                "sentences": [sentences for _, sentences in context],
            },
        }


def tab_separated(paths: Paths) -> Iterator[sources.Row | sources.Bad]:
    """Yields the records of tab-separated files with a header, quotes as they are."""
    return row_files.delimited_rows(paths, delimiter="\t", has_quotes=False)


def wiki_qa(paths: Paths, split: str) -> Rows:
    """Yields the lines of tab-separated files; the label is a number."""
    del split
    return row_files.converted(tab_separated(paths), _wiki_qa_row)


def _wiki_qa_row(record: sources.Row) -> sources.Row:
    return {
        "question_id": record["QuestionID"],
        "question": record["Question"],
        "document_title": record["DocumentTitle"],
        "answer": record["Sentence"],
        "label": int(record["Label"]),
    }


def _files(
    parse: sources.Parser, pattern: str, origin: str, **splits: str
) -> sources.FileRows:
    """Returns the source whose files are `pattern` with the splits' own names in it."""
    files = {
        split: [path.format(file_split) for path in pattern.split()]
        for split, file_split in splits.items()
    }
    return sources.FileRows(parse, files, origin)


_TRAIN_DEV = {"train": "train", "validation": "dev"}
_TRAIN_DEV_TEST = {**_TRAIN_DEV, "test": "test"}
_ADVERSARIAL = {
    "adversarialQA": "combined",
    "dbidaf": "1_dbidaf",
    "dbert": "2_dbert",
    "droberta": "3_droberta",
}

FILES: Mapping[str, sources.FileRows] = {
    "quartz": _files(
        stem_and_choices,
        "quartz/{}.jsonl",
        "allenai.org/data/quartz",
        **_TRAIN_DEV_TEST,
    ),
    "social_i_qa": _files(
        social_i_qa,
        "social_i_qa/{0}.jsonl social_i_qa/{0}-labels.lst",
        "leaderboard.allenai.org/socialiqa, socialiqa-train-dev.zip",
        **_TRAIN_DEV,
    ),
    "wiqa": _files(wiqa, "wiqa/{}.jsonl", "allenai.org/data/wiqa", **_TRAIN_DEV_TEST),
    "qasc": _files(
        stem_and_choices, "qasc/{}.jsonl", "allenai.org/data/qasc", **_TRAIN_DEV
    ),
    "quarel": _files(
        quarel,
        "quarel/quarel-v1-{}.jsonl",
        "allenai.org/data/quarel",
        **_TRAIN_DEV_TEST,
    ),
    "sciq": _files(
        json_list,
        "sciq/{}.json",
        "allenai.org/data/sciq",
        **{**_TRAIN_DEV_TEST, "validation": "valid"},
    ),
    "wiki_hop_original": _files(
        wiki_hop,
        "wiki_hop/{0}.json|qangaroo_v1.1/wikihop/{0}.json",
        "qangaroo.cs.ucl.ac.uk, qangaroo_v1.1.zip",
        **_TRAIN_DEV,
    ),
    **{
        f"adversarial_qa_{name}": _files(
            squad,
            f"adversarial_qa/{folder}/{{}}.json",
            "adversarialqa.github.io, aqa_v1.0.zip",
            **_TRAIN_DEV,
        )
        for name, folder in _ADVERSARIAL.items()
    },
    "quoref": _files(
        squad, "quoref/quoref-{}-v0.1.json", "allenai.org/data/quoref", **_TRAIN_DEV
    ),
    "ropes": _files(
        squad, "ropes/{}-v1.0.json", "allenai.org/data/ropes", **_TRAIN_DEV
    ),
    **{
        f"duorc_{part}": _files(
            duorc,
            f"duorc/{part}_{{}}.json",
            "github.com/duorc/duorc, folder dataset",
            **_TRAIN_DEV_TEST,
        )
        for part in ("ParaphraseRC", "SelfRC")
    },
    "hotpot_qa_fullwiki": _files(
        hotpot_qa,
        "hotpot_qa/hotpot_{}.json",
        "hotpotqa.github.io",
        train="train_v1.1",
        validation="dev_fullwiki_v1",
    ),
    "kilt_tasks_hotpotqa": _files(
        sources.json_lines,
        "kilt/hotpotqa-{}-kilt.jsonl",
        "github.com/facebookresearch/KILT",
        **_TRAIN_DEV,
    ),
    "wiki_qa": _files(
        wiki_qa,
        "wiki_qa/WikiQA-{0}.tsv|WikiQACorpus/WikiQA-{0}.tsv",
        "aka.ms/WikiQA, WikiQACorpus.zip",
        **_TRAIN_DEV_TEST,
    ),
}

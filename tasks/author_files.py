"""Datasets in their authors' own files: parsers, and where the files are.

Six whose files this project was tested on; `public_files` has the others. Rows have the
fields that PromptSource's templates expect, which are those of the Hub's datasets. Only
splits whose labels are public exist. What the files determine:

- *CoS-E v1.11* is explanations by question id; the questions are CommonsenseQA's.
  With the files of CommonsenseQA v1.11 (5 choices) every explanation has its
  question. With those of v1.0 (3 choices) 8,092 of 10,962 have: ids that both
  versions share. The others are counted as skipped.
- *CommonsenseQA* is v1.11 if its files exist, otherwise v1.0.
- *Rotten Tomatoes* is split as the Hub's dataset is: of each class the first
  4,265 sentences train, the next 533 validate, the last 533 test.
- *QuAIL*: see `quail`.
"""

import hashlib
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence

from elm_jax.data import row_files, sources

# Of each class of Rotten Tomatoes: where a split begins and ends.
POLARITY_SPLITS = {"train": (0, 4265), "validation": (4265, 4798), "test": (4798, 5331)}

NO_CORRECT = sources.Skipped("no correct choice")
NO_QUESTION = sources.Skipped("its question is not in the CommonsenseQA file")

# Share of QuAIL's questions with the right answer first or last: a file is ordered.
_ORDERED_SHARE = 0.9

Rows = Iterator[sources.Record]
Paths = Sequence[pathlib.Path]


def dream(paths: Paths, split: str) -> Rows:
    """Yields one row per question of dialogues `[turns, questions, id]`."""
    del split
    dialogues = (d for path in paths for d in row_files.read_json(path))
    for turns, questions, dialogue_id in dialogues:
        for question in questions:
            yield {"dialogue_id": dialogue_id, "dialogue": turns, **question}


def commonsense_qa(paths: Paths, split: str) -> Rows:
    """Yields one row per question; labels and texts of its choices as two lists."""
    for record in sources.json_lines(paths, split):
        choices = record["question"]["choices"]
        yield {
            "id": record["id"],
            "question": record["question"]["stem"],
            "choices": {
                "label": [choice["label"] for choice in choices],
                "text": [choice["text"] for choice in choices],
            },
            "answerKey": record["answerKey"],
        }


def cos_e(paths: Paths, split: str) -> Rows:
    """Yields one row per explanation, joined by id to its question.

    Args:
      paths: The explanations, then the questions of the same split.
      split: Name of the split.
    """
    explanations, questions = paths
    by_id = {record["id"]: record for record in sources.json_lines([questions], split)}
    for record in sources.json_lines([explanations], split):
        if record["id"] not in by_id:
            yield NO_QUESTION
            continue
        question = by_id[record["id"]]
        choices = {c["label"]: c["text"] for c in question["question"]["choices"]}
        if question["answerKey"] not in choices:
            yield NO_CORRECT
            continue
        yield {
            "id": record["id"],
            "question": question["question"]["stem"],
            "choices": list(choices.values()),
            "answer": choices[question["answerKey"]],
            "abstractive_explanation": record["explanation"]["open-ended"],
            "extractive_explanation": record["explanation"]["selected"],
        }


def cosmos_qa(paths: Paths, split: str) -> Rows:
    """Yields the CSV's records with the label as a number from 0 to 3."""
    return row_files.converted(sources.csv_rows(paths, split), _cosmos_row)


def _cosmos_row(record: sources.Row) -> sources.Row | sources.Skipped:
    label = int(record["label"])
    # In Python a label of -1 would select the last choice.
    return {**record, "label": label} if 0 <= label < 4 else NO_CORRECT


def quail(paths: Paths, split: str) -> Rows:
    """Yields one row per question, from the XML or the JSON-lines form of QuAIL.

    The authors have each XML file twice. In the *randomized* one, which the Hub's
    dataset and so the paper's experts have, answers are in an order of chance. In the
    *ordered* one the right answer is the first, or the last if the text does not tell
    it: a model that always says A would be right for 89 % of the rows. Answers of such
    a file are put into an order of chance, too, which each question's id decides.
    """
    for path in paths:
        if path.suffix == ".xml":
            yield from _quail_xml(ElementTree.parse(path).getroot())
        else:
            for record in sources.json_lines([path], split):
                yield {**record, "correct_answer_id": int(record["correct_answer_id"])}


def _quail_xml(root: ElementTree.Element) -> Rows:
    rows = [row for text in root.iter("text") for row in _quail_text(text)]
    places = [
        row["correct_answer_id"] in (0, len(row["answers"]) - 1)
        for row in rows
        if isinstance(row, Mapping)
    ]
    # By chance half of four answers are first or last.
    is_ordered = sum(places) >= _ORDERED_SHARE * len(places)
    for row in rows:
        if is_ordered and isinstance(row, Mapping):
            yield _shuffled(row)
        else:
            yield row


def _shuffled(row: sources.Row) -> sources.Row:
    """Returns a row of QuAIL with its answers in an order that its id decides."""

    def draw(place: int) -> bytes:
        return hashlib.sha256(f"{row['id']} {place}".encode()).digest()

    order = sorted(range(len(row["answers"])), key=draw)
    return {
        **row,
        "answers": [row["answers"][place] for place in order],
        "correct_answer_id": order.index(row["correct_answer_id"]),
    }


def _quail_text(text: ElementTree.Element) -> Rows:
    for question in text.iter("q"):
        answers = question.findall("a")
        correct = [answer.get("correct") == "True" for answer in answers]
        if correct.count(True) != 1:
            yield NO_CORRECT
            continue
        yield {
            "id": f"{text.get('id')}_{question.get('id')}",
            "context_id": text.get("id"),
            "question_id": question.get("id"),
            "domain": text.get("domain"),
            "context": _text_of(text.find("text_body")),
            "question": _text_of(question),
            "question_type": question.get("type"),
            "answers": [_text_of(answer) for answer in answers],
            "correct_answer_id": correct.index(True),
        }


def _text_of(element: ElementTree.Element | None) -> str:
    if element is None or element.text is None:
        raise ValueError("an element without text")
    return element.text.strip()


def rotten_tomatoes(paths: Paths, split: str) -> Rows:
    """Yields one row per sentence, positive ones (label 1) first.

    Args:
      paths: The positive sentences, then the negative ones; latin-1, one a line.
      split: `train`, `validation` or `test`.
    """
    start, end = POLARITY_SPLITS[split]
    for path, label in zip(paths, (1, 0), strict=True):
        # Not splitlines(): some sentences hold control characters it would split at.
        sentences = path.read_text("latin-1").strip("\n").split("\n")
        yield from ({"text": s.strip(), "label": label} for s in sentences[start:end])


DREAM = sources.FileRows(
    dream,
    {
        "train": ["dream/train.json"],
        "validation": ["dream/dev.json"],
        "test": ["dream/test.json"],
    },
    origin="github.com/nlpdata/dream, folder data",
)
# Files of version 1.11 first, under the authors' names; then those of version 1.0.
CQA_TRAIN = (
    "commonsense_qa/train_rand_split.jsonl|cos_e/train_rand_split.jsonl"
    "|cos_e/v1.0_train_rand_split.jsonl"
)
CQA_DEV = (
    "commonsense_qa/dev_rand_split.jsonl|cos_e/dev_rand_split.jsonl"
    "|cos_e/v1.0_dev_rand_split.jsonl"
)
COMMONSENSE_QA = sources.FileRows(
    commonsense_qa,
    {"train": [CQA_TRAIN], "validation": [CQA_DEV]},
    origin="www.tau-nlp.org/commonsenseqa (v1.11), or github.com/salesforce/cos-e "
    "(v1.0)",
)
COS_E = sources.FileRows(
    cos_e,
    {
        "train": [
            "cos_e/cose_train_v1.11_processed.jsonl|cos_e/v1.11_cose_train_v1.11.jsonl",
            CQA_TRAIN,
        ],
        "validation": [
            "cos_e/cose_dev_v1.11_processed.jsonl|cos_e/v1.11_cose_dev_v1.11.jsonl",
            CQA_DEV,
        ],
    },
    origin="github.com/salesforce/cos-e, folder data",
)
COSMOS_QA = sources.FileRows(
    cosmos_qa,
    {"train": ["cosmos_qa/train.csv"], "validation": ["cosmos_qa/valid.csv"]},
    origin="github.com/wilburOne/cosmosqa, folder data",
)
QUAIL = sources.FileRows(
    quail,
    {
        "train": [
            "quail/quail_1.3_train_randomized.xml|quail/train.xml"
            "|quail/quail_1.3_train.xml"
        ],
        "validation": [
            "quail/quail_1.3_dev_randomized.xml|quail/dev.xml|quail/quail_1.3_dev.xml"
        ],
        "challenge": ["quail/challenge.jsonl|quail/quail_1.3_challenge.jsonl"],
    },
    origin="github.com/text-machine-lab/quail, version 1.3, xml/randomized",
)
ROTTEN_TOMATOES = sources.FileRows(
    rotten_tomatoes,
    dict.fromkeys(
        POLARITY_SPLITS,
        ["rotten_tomatoes/rt-polarity.pos", "rotten_tomatoes/rt-polarity.neg"],
    ),
    origin="www.cs.cornell.edu/people/pabo/movie-review-data, rt-polaritydata",
)

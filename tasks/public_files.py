"""Other datasets in their authors' public files: classes, summaries, inferences.

Rows have the fields that PromptSource's templates expect. Written from the published
forms of the files, and tested on small files of those forms; the authors' own were not
available. Only splits whose labels are public exist. `public_qa` has the questions and
answers. Not read from their authors' files: app_reviews, wiki_bio, CNN/DailyMail, XSum,
MRPC and WSC, which come as databases, thousands of files or need repairs; TFDS or the
Hub has them.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence

from elm_jax.data import archives, row_files, sources
from tasks import conversions, public_qa

Rows = Iterator[sources.Record]
Paths = Sequence[pathlib.Path]


def _crepe(paths: Paths, *names: str) -> Rows:
    """Yields CSV files without a header: the class, made to begin at 0, then texts."""
    raw_rows = row_files.delimited_rows(paths, names=("label", *names))
    return row_files.converted(raw_rows, _from_zero)


def _from_zero(record: sources.Row) -> sources.Row:
    return {**record, "label": int(record["label"]) - 1}


def ag_news(paths: Paths, split: str) -> Rows:
    """Yields title and description as one text, and the class from 0."""
    del split
    raw_rows = _crepe(paths, "title", "description")
    return row_files.converted(raw_rows, conversions.tfds_ag_news)


def titled(paths: Paths, split: str) -> Rows:
    """Yields title and content, and the class from 0: DBpedia and Amazon reviews."""
    del split
    return _crepe(paths, "title", "content")


def yelp(paths: Paths, split: str) -> Rows:
    """Yields a review and its stars less one."""
    del split
    return _crepe(paths, "text")


def imdb(paths: Paths, split: str) -> Rows:
    """Yields reviews of the archive, 1 for positive ones; it is not unpacked."""
    kinds = ("neg", "pos")

    def is_review(name: str) -> bool:
        _, part, kind, *rest = (*name.split("/"), "", "", "")[:4]
        return part == split and kind in kinds and any(rest)

    for path in paths:
        for name, content in archives.members(path, is_review):
            label = kinds.index(name.split("/")[2])
            yield {"text": sources.decoded(content), "label": label}


def trec(paths: Paths, split: str) -> Rows:
    """Yields questions with both labels in the order that the templates number them."""
    del split
    for path in paths:
        # One byte of the file, 0xf0, stands where a space should.
        text = path.read_bytes().replace(b"\xf0", b" ").decode("ascii")
        for line in text.strip().split("\n"):
            labels, _, question = line.strip().partition(" ")
            coarse, _, fine = labels.partition(":")
            yield {
                "text": question,
                "label-coarse": conversions.TREC_COARSE.index(coarse),
                "label-fine": conversions.TREC_FINE.index(fine),
            }


def common_gen(paths: Paths, split: str) -> Rows:
    """Yields one row per sentence of a set of concepts."""
    for number, record in enumerate(sources.json_lines(paths, split)):
        for sentence in record["scene"]:
            yield {
                "concept_set_idx": number,
                "concepts": record["concept_set"].split("#"),
                "target": sentence,
            }


def document_and_summary(paths: Paths, split: str) -> Rows:
    """Yields pairs of lines of two files; Multi-News marks line breaks by a word."""
    del split
    documents, summaries = map(row_files.read_lines, paths)
    for document, summary in zip(documents, summaries, strict=True):
        text = document.strip().replace("NEWLINE_CHAR", "\n")
        yield {"document": text, "summary": summary.strip()}


def samsum(paths: Paths, split: str) -> Rows:
    """Yields the dialogues of a JSON list with their summaries."""
    yield from public_qa.json_list(paths, split)


def paws(paths: Paths, split: str) -> Rows:
    """Yields pairs of sentences; id and label are numbers."""
    del split
    return row_files.converted(public_qa.tab_separated(paths), _paws_row)


def _paws_row(record: sources.Row) -> sources.Row:
    return {**record, **{name: int(record[name]) for name in ("id", "label")}}


def qqp(paths: Paths, split: str) -> Rows:
    """Yields pairs of questions; lines that lack a field are skipped, as everywhere."""
    del split
    for record in public_qa.tab_separated(paths):
        if isinstance(record, sources.Bad) or record["is_duplicate"] not in ("0", "1"):
            yield sources.Skipped("a line that lacks a field")
            continue
        yield {
            "question1": record["question1"],
            "question2": record["question2"],
            "label": int(record["is_duplicate"]),
            "idx": int(record["id"]),
        }


def story_cloze(paths: Paths, split: str) -> Rows:
    """Yields stories of four sentences with two endings, numbered from 1."""
    return row_files.converted(sources.csv_rows(paths, split), _story)


def _story(record: sources.Row) -> sources.Row:
    sentences = {f"input_sentence_{n}": record[f"InputSentence{n}"] for n in "1234"}
    return {
        "story_id": record["InputStoryid"],
        **sentences,
        "sentence_quiz1": record["RandomFifthSentenceQuiz1"],
        "sentence_quiz2": record["RandomFifthSentenceQuiz2"],
        "answer_right_ending": int(record["AnswerRightEnding"]),
    }


def anli(paths: Paths, split: str) -> Rows:
    """Yields premise (called context there), hypothesis and the label as a number."""
    for record in sources.json_lines(paths, split):
        label = ("e", "n", "c").index(record["label"])
        yield {**record, "premise": record["context"], "label": label}


def hellaswag(paths: Paths, split: str) -> Rows:
    """Yields the lines with the label as a text, as the Hub has it."""
    rows = sources.json_lines(paths, split)
    return row_files.converted(rows, conversions.label_as_text)


def super_glue(paths: Paths, split: str) -> Rows:
    """Yields the lines of CB, COPA, RTE and WiC with the label as a number."""
    orders = {
        "CB": ("entailment", "contradiction", "neutral"),
        "RTE": ("entailment", "not_entailment"),
    }
    for path in paths:
        order = orders.get(path.parent.name, (False, True))
        for record in sources.json_lines([path], split):
            yield {**record, "label": order.index(record["label"])}


_TRAIN_DEV = {"train": "train", "validation": "dev"}
_CREPE = "github.com/zhangxiangxiao/Crepe"
_SUPER_GLUE = "super.gluebenchmark.com/tasks, combined.zip"
_STORY_CLOZE = {"validation": "val", "test": "test"}


def _files(
    parse: sources.Parser, pattern: str, origin: str, splits: Mapping[str, str]
) -> sources.FileRows:
    files = {
        split: [path.format(file_split) for path in pattern.split()]
        for split, file_split in splits.items()
    }
    return sources.FileRows(parse, files, origin)


_TRAIN_TEST = {"train": "train", "test": "test"}
_THREE = {**_TRAIN_DEV, "test": "test"}
_THREE_VAL = {"train": "train", "validation": "val", "test": "test"}

FILES: Mapping[str, sources.FileRows] = {
    **public_qa.FILES,
    "ag_news": _files(ag_news, "ag_news_csv/{}.csv", _CREPE, _TRAIN_TEST),
    "dbpedia_14": _files(titled, "dbpedia_csv/{}.csv", _CREPE, _TRAIN_TEST),
    "amazon_polarity": _files(
        titled, "amazon_review_polarity_csv/{}.csv", _CREPE, _TRAIN_TEST
    ),
    "yelp_review_full": _files(
        yelp, "yelp_review_full_csv/{}.csv", _CREPE, _TRAIN_TEST
    ),
    "imdb": _files(
        imdb,
        "imdb/aclImdb_v1.tar.gz",
        "ai.stanford.edu/~amaas/data/sentiment",
        _TRAIN_TEST,
    ),
    "trec": _files(
        trec,
        "trec/{}.label",
        "cogcomp.seas.upenn.edu/Data/QA/QC",
        {"train": "train_5500", "test": "TREC_10"},
    ),
    "common_gen": _files(
        common_gen,
        "common_gen/commongen.{}.jsonl",
        "inklab.usc.edu/CommonGen",
        _TRAIN_DEV,
    ),
    "gigaword": _files(
        document_and_summary,
        "gigaword/{0}.src.txt gigaword/{0}.tgt.txt",
        "github.com/microsoft/unilm, org_data of gigaword",
        _THREE,
    ),
    "multi_news": _files(
        document_and_summary,
        "multi_news/{0}.src.cleaned multi_news/{0}.tgt",
        "github.com/Alex-Fabbri/Multi-News",
        _THREE_VAL,
    ),
    "samsum": _files(
        samsum,
        "samsum/{}.json",
        "arxiv.org/abs/1911.12237, corpus.7z of the ancillary files",
        _THREE_VAL,
    ),
    "paws_labeled_final": _files(
        paws,
        "paws/final/{}.tsv",
        "github.com/google-research-datasets/paws, paws_wiki_labeled_final.tar.gz",
        _THREE,
    ),
    "glue_qqp": _files(qqp, "glue/QQP/{}.tsv", "gluebenchmark.com/tasks", _TRAIN_DEV),
    "story_cloze_2016": _files(
        story_cloze,
        "story_cloze/{0}2016.csv|story_cloze/cloze_test_{0}__spring2016.csv",
        "cs.rochester.edu/nlp/rocstories, on request",
        _STORY_CLOZE,
    ),
    **{
        f"anli_r{number}": _files(
            anli,
            f"anli_v1.0/R{number}/{{}}.jsonl",
            "github.com/facebookresearch/anli, anli_v1.0.zip",
            _THREE,
        )
        for number in "123"
    },
    "hellaswag": _files(
        hellaswag,
        "hellaswag/hellaswag_{}.jsonl",
        "github.com/rowanz/hellaswag, folder data",
        {"train": "train", "validation": "val"},
    ),
    **{
        f"super_glue_{name.lower()}": _files(
            super_glue,
            f"super_glue/{name}/{{}}.jsonl",
            _SUPER_GLUE,
            {"train": "train", "validation": "val"},
        )
        for name in ("CB", "COPA", "RTE", "WiC")
    },
    "winogrande_winogrande_xl": _files(
        sources.json_lines,
        "winogrande_1.1/{}.jsonl",
        "winogrande.allenai.org, winogrande_1.1.zip",
        {"train": "train_xl", "validation": "dev"},
    ),
}

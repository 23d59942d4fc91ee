"""Classes, summaries and inferences in small files of the authors' published forms."""

import io
import json
import tarfile

import pytest

from elm_jax import errors
from elm_jax.data import sources
from tasks import public_files, public_qa, table_rows
from tests.tasks.published import check_rows, lines

STORY = (
    "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,"
    "RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\n"
    "a-1,Nia baked.,She had no flour.,She got some.,She kneaded.,"
    '"The bread was warm.",It flew.,1\n'
)
PAIR = {"premise": "Hall has a library.", "hypothesis": "Hall is a town.", "idx": 0}
# Dataset, split, text of each file, what the first row has besides.
FORMS = {
    "ag_news": (
        "test",
        ['"3","Harbour wins","The home side ""scored"" late."\n'],
        {"text": 'Harbour wins The home side "scored" late.', "label": 2},
    ),
    "dbpedia_14": (
        "train",
        ['12,"Blue Water"," Blue Water is an album."\n'],
        {"title": "Blue Water", "content": " Blue Water is an album.", "label": 11},
    ),
    "amazon_polarity": ("train", ['"2","Good","Works well."\n'], {"label": 1}),
    "yelp_review_full": (
        "test",
        ['"5","Best soup in town"\n'],
        {"text": "Best soup in town", "label": 4},
    ),
    "trec": (
        "test",
        ["DESC:def What is a barometer ?\nLOC:city What city ?\n"],
        {"text": "What is a barometer ?", "label-coarse": 0, "label-fine": 7},
    ),
    "common_gen": (
        "train",
        [lines({"concept_set": "dog#park", "scene": ["A dog in a park.", "Dogs."]})],
        {"concepts": ["dog", "park"], "target": "A dog in a park."},
    ),
    "gigaword": (
        "validation",
        ["rates rose on tuesday .\n", "rates rise\n"],
        {"document": "rates rose on tuesday .", "summary": "rates rise"},
    ),
    "multi_news": (
        "test",
        ["A ferry ran NEWLINE_CHAR aground. ||||| All are safe.\n", "– A ferry.\n"],
        {"document": "A ferry ran \n aground. ||||| All are safe."},
    ),
    "samsum": (
        "validation",
        [json.dumps([{"id": "1", "dialogue": "A: Hi", "summary": "A says hi."}])],
        {"summary": "A says hi."},
    ),
    "paws_labeled_final": (
        "train",
        ['id\tsentence1\tsentence2\tlabel\n1\tA to "B" .\tB to A .\t0\n'],
        {"sentence1": 'A to "B" .', "label": 0},
    ),
    "glue_qqp": (
        "train",
        [
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
            "7\t1\t2\tHow to swim?\tHow does one swim?\t1\n8\t1\t2\tHow\n"
        ],
        {"question2": "How does one swim?", "label": 1, "idx": 7},
    ),
    "story_cloze_2016": (
        "validation",
        [STORY],
        {"input_sentence_1": "Nia baked.", "answer_right_ending": 1},
    ),
    **{
        f"anli_r{number}": (
            split,
            [lines({"uid": "1", "context": "p", "hypothesis": "h", "label": "c"})],
            {"premise": "p", "label": 2},
        )
        for number, split in zip("123", ("train", "validation", "test"), strict=True)
    },
    "hellaswag": (
        "validation",
        [
            lines(
                {
                    "ind": 1,
                    "activity_label": "Washing",
                    "ctx_a": "A man has plates.",
                    "ctx_b": "he",
                    "ctx": "A man has plates. he",
                    "label": 3,
                    "endings": ["a", "b", "c", "d"],
                }
            )
        ],
        {"label": "3"},
    ),
    "super_glue_cb": ("train", [lines({**PAIR, "label": "neutral"})], {"label": 2}),
    "super_glue_rte": (
        "validation",
        [lines({**PAIR, "label": "not_entailment"})],
        {"label": 1},
    ),
    "super_glue_copa": (
        "train",
        [
            lines(
                {
                    "premise": "It fell.",
                    "choice1": "It sang.",
                    "choice2": "It broke.",
                    "question": "effect",
                    "label": 1,
                    "idx": 0,
                }
            )
        ],
        {"label": 1},
    ),
    "super_glue_wic": (
        "train",
        [
            lines(
                {
                    "word": "bank",
                    "sentence1": "A river bank.",
                    "sentence2": "A savings bank.",
                    "label": False,
                    "idx": 0,
                }
            )
        ],
        {"label": 0},
    ),
    "winogrande_winogrande_xl": (
        "train",
        [
            lines(
                {
                    "qID": "1",
                    "sentence": "The book did not fit, the _ was big.",
                    "option1": "book",
                    "option2": "bag",
                    "answer": "1",
                }
            )
        ],
        {"answer": "1"},
    ),
}


def test_every_parser_has_a_file_here():
    rest = {"imdb"}  # an archive, below
    assert set(public_files.FILES) == set(FORMS) | rest | set(public_qa.FILES)
    assert set(public_files.FILES) <= set(table_rows.datasets())


@pytest.mark.parametrize("name", FORMS)
def test_rows_have_what_prompts_read(name, tmp_path):
    split, texts, expected = FORMS[name]
    check_rows(name, public_files.FILES[name], split, texts, expected, tmp_path)


def test_imdbs_archive_is_read_without_unpacking(tmp_path):
    source = public_files.FILES["imdb"]
    (tmp_path / "imdb").mkdir()
    files = {
        "aclImdb/README": "read me",
        "aclImdb/train/pos/0_9.txt": "Good.",
        "aclImdb/train/neg/0_1.txt": "Bad é.",
        "aclImdb/train/unsup/0_0.txt": "Who knows.",
        "aclImdb/test/pos/0_8.txt": "Fine.",
    }
    with tarfile.open(tmp_path / "imdb/aclImdb_v1.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    by_split = {s: list(source.rows(s, data_dir=str(tmp_path))) for s in source.files}
    assert by_split == {
        "train": [{"text": "Good.", "label": 1}, {"text": "Bad é.", "label": 0}],
        "test": [{"text": "Fine.", "label": 1}],
    }
    (tmp_path / "imdb/aclImdb_v1.tar.gz").write_bytes(b"no archive")
    with pytest.raises(errors.DataError, match="aclImdb_v1"):
        list(source.rows("train", data_dir=str(tmp_path)))


def test_a_line_of_qqp_that_lacks_a_field_is_skipped_and_counted(tmp_path):
    split, texts, expected = FORMS["glue_qqp"]
    source = public_files.FILES["glue_qqp"]
    check_rows("glue_qqp", source, split, texts, expected, tmp_path)
    read = list(source.rows(split, data_dir=str(tmp_path)))
    assert read[1:] == [sources.Skipped("a line that lacks a field")]


@pytest.mark.parametrize("name", ["ag_news", "paws_labeled_final", "story_cloze_2016"])
def test_a_ragged_line_of_other_files_is_a_bad_row_of_its_own(name, tmp_path):
    split, (text, *_), expected = FORMS[name]
    source = public_files.FILES[name]
    path = tmp_path / source.files[split][0].split("|")[0]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b'"1"\n')
    row, bad = source.rows(split, data_dir=str(tmp_path))
    assert row.items() >= expected.items()
    assert isinstance(bad, sources.Bad)
    assert f"of {path.name}" in bad.detail


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("trec", "WHAT:def What is it ?\n"),
        ("yelp_review_full", '"five","text"\n'),
        ("super_glue_cb", lines({**PAIR, "label": "maybe"})),
        ("samsum", '{"id": 1'),
    ],
)
def test_a_file_of_another_form_is_refused_by_name(name, text, tmp_path):
    source = public_files.FILES[name]
    split = "validation" if "validation" in source.files else "test"
    path = tmp_path / source.files[split][0].split("|")[0]
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(errors.DataError, match=path.name):
        list(source.rows(split, data_dir=str(tmp_path)))


def test_manual_datasets_lie_where_the_table_says():
    for name in ("story_cloze_2016", "samsum"):
        manual = table_rows.datasets()[name].manual
        for paths in public_files.FILES[name].files.values():
            assert any(path in manual for path in paths[0].split("|"))

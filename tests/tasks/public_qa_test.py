"""Questions and answers in small files of the authors' published forms."""

import json

import pytest

from tasks import public_qa
from tests.tasks.published import check_rows, lines

SQUAD = {
    "title": "Ferries",
    "paragraphs": [
        {
            "context": "The ferry left at dawn.",
            "qas": [
                {
                    "id": "q1",
                    "question": "When did the ferry leave?",
                    "answers": [{"text": "at dawn", "answer_start": 15}],
                }
            ],
        }
    ],
}
ROPES = {
    "paragraphs": [
        {
            "background": "Metals carry heat.",
            "situation": "Jo has a metal spoon, Al a wooden one.",
            "qas": [
                {"id": 1, "question": "Whose is hot?", "answers": [{"text": "Jo"}]}
            ],
        }
    ]
}
CHOICES = [{"text": "faster", "label": "A"}, {"text": "slower", "label": "B"}]
PLOT = {
    "id": "p1",
    "plot": "A baker finds a map.",
    "title": "Flour",
    "qa": [
        {"id": "1", "question": "What is found?", "answers": ["a map"]},
        {"id": "2", "question": "How old is the baker?", "answers": []},
    ],
}
for question in PLOT["qa"]:
    question["no_answer"] = not question["answers"]
HOTPOT = {
    "_id": "5a",
    "question": "Are Hall and Ro both towns?",
    "answer": "no",
    "type": "comparison",
    "level": "hard",
    "supporting_facts": [["Hall", 0], ["Ro", 0]],
    "context": [["Hall", ["Hall is a town."]], ["Ro", ["Ro is an island."]]],
}
QUARTZ = {"id": "1", "question": {"stem": "A ball rolls", "choices": CHOICES}}
WIQA = {
    "question": {
        "stem": "suppose less rain falls, how will it affect the river rising.",
        "para_steps": ["Rain falls.", "The river rises."],
        "answer_label": "less",
        "answer_label_as_choice": "B",
        "choices": [{"label": "A", "text": "more"}, {"label": "B", "text": "less"}],
    },
    "metadata": {"ques_id": "1", "question_type": "INPARA_EFFECT"},
}
QUAREL = {
    "id": "1",
    "question": "Where does it stop sooner? (A) ice (B) gravel",
    "answer_index": 1,
    "world_literals": {"world1": "ice", "world2": "gravel"},
}
WIKI_QA = (
    "QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel\n"
    'Q1\thow tall is it\tD1\tTall Tower\tD1-0\tThe "Tall Tower" is ninety metres.\t1\n'
)


def listed(*records):
    return json.dumps(records)


def data(article):
    return json.dumps({"data": [article]})


# Dataset, split, text of each file, what the first row has besides.
FORMS = {
    "quartz": (
        "validation",
        [lines({**QUARTZ, "answerKey": "A", "para": "Steep is fast."})],
        {"choices": {"text": ["faster", "slower"], "label": ["A", "B"]}},
    ),
    "qasc": (
        "train",
        [
            lines(
                {
                    **QUARTZ,
                    "answerKey": "B",
                    "fact1": "f",
                    "fact2": "g",
                    "combinedfact": "h",
                }
            )
        ],
        {"question": "A ball rolls", "answerKey": "B"},
    ),
    "social_i_qa": (
        "train",
        [
            lines(
                {
                    "context": "Ana lent Ben her bike.",
                    "question": "How does Ben feel?",
                    "answerA": "glad",
                    "answerB": "sad",
                    "answerC": "cold",
                }
            ),
            "1\n",
        ],
        {"label": "1"},
    ),
    "wiqa": ("test", [lines(WIQA)], {"answer_label": "less"}),
    "quarel": ("train", [lines(QUAREL)], {"answer_index": 1}),
    "sciq": (
        "validation",
        [
            listed(
                {
                    "question": "Which organ pumps blood?",
                    "distractor3": "liver",
                    "distractor1": "lung",
                    "distractor2": "skin",
                    "correct_answer": "heart",
                    "support": "The heart is a muscle.",
                }
            )
        ],
        {"correct_answer": "heart"},
    ),
    "wiki_hop_original": (
        "train",
        [
            listed(
                {
                    "id": "1",
                    "query": "country river blue",
                    "answer": "norland",
                    "candidates": ["norland", "sudland"],
                    "supports": ["The river Blue flows in Norland."],
                }
            )
        ],
        {"question": "country river blue"},
    ),
    "adversarial_qa_adversarialQA": (
        "train",
        [data(SQUAD)],
        {"answers": {"text": ["at dawn"]}, "metadata": {"split": "train"}},
    ),
    "adversarial_qa_droberta": ("validation", [data(SQUAD)], {"title": "Ferries"}),
    "quoref": ("train", [data(SQUAD)], {"context": "The ferry left at dawn."}),
    "ropes": (
        "validation",
        [data(ROPES)],
        {"background": "Metals carry heat.", "answers": {"text": ["Jo"]}},
    ),
    "duorc_ParaphraseRC": (
        "validation",
        [listed(PLOT)],
        {"question_id": "1", "no_answer": False},
    ),
    "duorc_SelfRC": ("test", [listed(PLOT)], {"plot": "A baker finds a map."}),
    "hotpot_qa_fullwiki": (
        "validation",
        [listed(HOTPOT)],
        {
            "supporting_facts": {"title": ["Hall", "Ro"], "sent_id": [0, 0]},
            "context": {
                "title": ["Hall", "Ro"],
                "sentences": [["Hall is a town."], ["Ro is an island."]],
            },
        },
    ),
    "kilt_tasks_hotpotqa": (
        "train",
        [lines({"id": "1", "input": "In which country?", "output": [{"answer": "N"}]})],
        {"input": "In which country?"},
    ),
    "wiki_qa": (
        "test",
        [WIKI_QA],
        {"answer": 'The "Tall Tower" is ninety metres.', "label": 1},
    ),
}


def test_every_parser_has_a_file_here():
    rest = {"adversarial_qa_dbidaf", "adversarial_qa_dbert"}  # of the same form
    assert set(public_qa.FILES) == set(FORMS) | rest


@pytest.mark.parametrize("name", FORMS)
def test_rows_have_what_prompts_read(name, tmp_path):
    split, texts, expected = FORMS[name]
    check_rows(name, public_qa.FILES[name], split, texts, expected, tmp_path)

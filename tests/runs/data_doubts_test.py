"""What runs say of their data before they train on it or score it."""

import pytest

from elm_jax import errors
from elm_jax.runs import data_doubts, train
from elm_jax.training import optimizers
from tests.runs import scored


@pytest.fixture
def opened(tmp_path):
    """Opens the toy tasks in a vocabulary of English."""
    data = scored.make_data().opened(lambda text: text.format(MODEL_DIR=tmp_path))
    with scored.registered():
        yield lambda name: data.open(f"{name}_ask", "train")


def test_what_is_cut_and_unknown_is_told_and_recorded(opened, capsys):
    each = [opened(name) for name in ("plain", "signs", "long")]
    data_doubts.check([*each, *each])
    assert capsys.readouterr().out.splitlines() == [
        "inputs are cut: 50.0 % of long_ask train",
        "characters are unknown to the vocabulary: 25.0 % of signs_ask train",
    ]
    described = data_doubts.describe(each[1])
    assert described == {
        "num_examples": 8,
        "fingerprint": each[1].fingerprint,
        "num_rows": 8,
        "dropped": {},
        "cut": {"inputs": 0, "targets": 0, "choices": 0},
        "unknown": {
            "inputs": {"examples": 0, "tokens": 0},
            "targets": {"examples": 2, "tokens": 2},
            "choices": {"examples": 2, "tokens": 6},
        },
        "indistinct": {"choices with unknown characters only": 2},
    }
    assert data_doubts.describe(each[2])["cut"]["inputs"] == 4


def test_nothing_is_said_of_data_without_doubts(opened, capsys):
    data_doubts.check([opened("plain"), opened("written")])
    data_doubts.check([])
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_inputs_that_are_all_cut_are_refused_by_training_and_scoring(
    opened, tmp_path, monkeypatch
):
    only_long = {**scored.ROWS, "long": scored.ROWS["long"][:4]}
    monkeypatch.setattr(scored, "ROWS", only_long)
    with pytest.raises(
        errors.DataError, match=r"every input in train of long_ask .*24"
    ):
        data_doubts.check([opened("plain"), opened("long")])
    scored.save_base(tmp_path)
    with pytest.raises(errors.DataError, match="every input in test of long_ask"):
        scored.score(tmp_path, "plain", "long")
    assert not (tmp_path / "results.jsonl").exists()
    with pytest.raises(errors.DataError, match="every input in train of long_ask"):
        train.Train(
            model_dir=str(tmp_path),
            kind="dataset",
            tasks="long_ask",
            data=scored.make_data(),
            optimizer=optimizers.AdamW(),
            train_steps=1,
            batch_size=8,
            initial_checkpoint_path="{MODEL_DIR}/base",
        ).run()

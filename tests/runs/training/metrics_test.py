import pytest

from elm_jax.runs.training import metrics

LAST = '{"step": 6, "loss": 2.5, "accuracy": 0.5, "grad_norm": 1.0, "secs_left": 0.0}'


def test_the_manifest_keeps_of_the_last_line_what_speed_did_not_shape(tmp_path):
    text = f'{{"step": 4, "loss": 3.0}}\n{LAST}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert metrics.read_last(tmp_path, step=6) == {
        **{"loss": 2.5, "accuracy": 0.5, "grad_norm": 1.0}
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *[(None, "No such file"), (b"", "no JSON"), (b"\xff\xfe\n", "no UTF-8")],
        *[(b'{"step": 5, "loss": 1.0}\n', "step 5 instead of 6")],
        *[(b'{"step": "x"}\n', "step is"), (b"[1]\n", "a list")],
        *[(b'{"step": 6, "loss": NaN}\n', "not finite")],
    ],
)
def test_a_file_that_was_damaged_after_the_end_gives_no_metrics_and_is_told(
    tmp_path, content, message, capsys
):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    assert metrics.read_last(tmp_path, step=6) == {}
    assert message in capsys.readouterr().err

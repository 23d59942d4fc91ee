import io
import json
import subprocess
import sys

import pytest

from elm_jax import errors
from elm_jax.training import writers
from tests.checkpoints import sample


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_console_line_has_loss_rate_and_time_left():
    stream = io.StringIO()
    writer = writers.ConsoleWriter("dream_answer", num_steps=1000, stream=stream)
    scalars = {
        **{"loss": 2.34567, "accuracy": 0.5, "grad_norm": 1.0, "learning_rate": 1e-4},
        **{"steps_per_sec": 12.345, "tokens_per_sec": 45_678.9, "secs_left": 75.0},
    }
    writer.write(250, scalars)
    assert stream.getvalue() == (
        "dream_answer: step 250/1000, loss 2.346, accuracy 0.5, learning_rate 0.0001, "
        "12.3 steps/s, 45,679 tokens/s, 1 min 15 s left\n"
    )


@pytest.mark.parametrize(("share", "is_told"), [(0.02, False), (0.051, True)])
def test_the_console_tells_of_much_waiting_for_data_only(share, is_told):
    stream = io.StringIO()
    writer = writers.ConsoleWriter("dream_answer", num_steps=9, stream=stream)
    writer.write(1, {"loss": 1.0, "data_wait_share": share})
    assert ("waits for data 5% of the time" in stream.getvalue()) == is_told


def test_json_lines_hold_every_scalar(tmp_path):
    writer = writers.JsonLinesWriter(tmp_path / "run" / "metrics.jsonl")
    writer.write(1, {"loss": 2.0, "accuracy": 0.5})
    writer.write(2, {"loss": 1.0})
    writer.close()
    assert read_rows(tmp_path / "run" / "metrics.jsonl") == [
        {"step": 1, "loss": 2.0, "accuracy": 0.5},
        {"step": 2, "loss": 1.0},
    ]


def test_lines_are_there_before_the_file_is_closed(tmp_path):
    writer = writers.JsonLinesWriter(tmp_path / "metrics.jsonl")
    writer.write(1, {"loss": 2.0})
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 1
    writer.close()


@pytest.mark.parametrize("tail", ["", '{"step": 5, "lo', "\x00\x00\n"])
def test_going_on_drops_later_and_torn_lines(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) for step in (1, 2, 3, 4)]
    path.write_text("\n".join(lines) + "\n" + tail)
    writer = writers.JsonLinesWriter(path, start_step=2)
    writer.write(3, {})
    writer.close()
    assert read_rows(path) == [{"step": 1}, {"step": 2}, {"step": 3}]


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b'{"step": "x"}', b"[]", b"\x00", b'{"step": -1}', b""]
)
def test_a_damaged_line_before_the_state_is_told_and_left_out(tmp_path, line, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n{"step": 3}\n')
    writer = writers.JsonLinesWriter(path, start_step=2)
    writer.write(4, {})
    writer.close()
    assert read_rows(path) == [{"step": 1}, {"step": 2}, {"step": 4}]
    assert f"{path}: line 2 is left out" in capsys.readouterr().err


def test_starting_anew_begins_the_file_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 9}\n')
    writer = writers.JsonLinesWriter(path)
    writer.write(1, {})
    writer.close()
    assert read_rows(path) == [{"step": 1}]


def test_making_writers_touches_no_disk(tmp_path):
    writers.JsonLinesWriter(tmp_path / "a" / "metrics.jsonl").close()
    writers.TensorBoardWriter(tmp_path / "b").close()
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named():
    with pytest.raises(errors.ConfigError, match="/proc/nowhere"):
        writers.JsonLinesWriter("/proc/nowhere/metrics.jsonl").write(1, {})


def test_tensorboard_reads_the_curves_and_the_config(tmp_path):
    tensorboard = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    writer = writers.TensorBoardWriter(tmp_path, config="MODEL_DIR = '/x'\nSEED = 1")
    writer.write(1, {"loss": 2.0})
    writer.write(2, {"loss": 1.0})
    writer.close()
    read = tensorboard.EventAccumulator(str(tmp_path))
    read.Reload()
    points = [(event.step, event.value) for event in read.Scalars("loss")]
    assert points == [(1, 2.0), (2, 1.0)]
    (text,) = read.Tensors("config/text_summary")
    assert b"SEED = 1" in text.tensor_proto.string_val[0]


def test_tensorboard_hides_points_after_the_state_a_run_goes_on_from(tmp_path):
    tensorboard = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    for start_step, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        writer = writers.TensorBoardWriter(tmp_path, start_step=start_step)
        for step in steps:
            writer.write(step, {"loss": float(start_step)})
        writer.close()
    read = tensorboard.EventAccumulator(str(tmp_path))
    read.Reload()
    points = [(event.step, event.value) for event in read.Scalars("loss")]
    assert points == [(1, 0.0), (2, 0.0), (3, 2.0), (4, 2.0)]


def test_writing_to_tensorboard_imports_no_tensorflow(tmp_path):
    code = (
        "import sys\n"
        "from elm_jax.training import writers\n"
        "w = writers.TensorBoardWriter(sys.argv[1])\n"
        "w.write(1, {'loss': 1.0}); w.close()\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


FULL_DISK = """
import sys
from elm_jax import errors
from elm_jax.training import writers
from tests.checkpoints import sample

writer = getattr(writers, sys.argv[1])(sys.argv[2])
scalars = {f"metric_{n}": 1.0 for n in range(200)}
writer.write(1, scalars)
with sample.full_disk(50):
    for what in (lambda: writer.write(2, scalars), writer.close, writer.close):
        try:
            what()
            print("fine")
        except errors.ConfigError as error:
            print("Free space" in str(error))
"""


@pytest.mark.parametrize("kind", ["JsonLinesWriter", "TensorBoardWriter"])
def test_a_disk_that_fills_up_is_told_and_a_writer_closes_once(tmp_path, kind):
    first_line, *closed = sample.run_script(FULL_DISK, kind, tmp_path / "metrics")
    assert first_line == "True"
    assert closed in (["True", "fine"], ["fine", "fine"])

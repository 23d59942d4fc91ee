import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import rendering, serving, sources, tasks, template_files, templates


def numbers(paths, split):
    for path in paths:
        yield from ({"n": int(line)} for line in path.read_text().split())


def from_other(row):
    return {"n": row["number"] - 100}


def with_gaps():
    for n in range(10):
        if n % 3 == 0:
            yield sources.Skipped("a gap")
        yield {"n": n}


@pytest.fixture
def any_of():
    files = sources.FileRows(
        numbers, {"train": ["mine.txt"]}, origin="example.org/mine"
    )
    generated = sources.GeneratedRows(
        lambda split: [{"number": 100 + i} for i in range(20)], version="1"
    )
    return serving.AnyOf(
        "numbers",
        (
            serving.Option("files", files, {"train": "train"}),
            serving.Option(
                "tfds", generated, {"train": "TRAIN", "dev": "DEV"}, from_other
            ),
        ),
        fields=("n",),
    )


def served_numbers(source, split, **options):
    served = serving.serve(source, split, **options)
    return served.kind, [row["n"] for row in served.rows()]


def test_the_first_place_that_has_the_split_serves(any_of, tmp_path):
    options = {"data_dir": str(tmp_path)}
    assert served_numbers(any_of, "train[:2]", **options) == ("tfds", [0, 1])
    (tmp_path / "mine.txt").write_text("7 8 9")
    assert served_numbers(any_of, "train[:2]", **options) == ("files", [7, 8])
    assert served_numbers(any_of, "dev[:2]", **options) == ("tfds", [0, 1])
    order = ("tfds", "files")
    assert served_numbers(any_of, "train[1:3]", **options, order=order) == (
        "tfds",
        [1, 2],
    )
    prints = {
        serving.serve(any_of, "train", **options, order=o).fingerprint()
        for o in (order, ("files",))
    }
    assert len(prints) == 2


def test_every_place_that_lacks_the_split_is_told_with_what_to_do(any_of, tmp_path):
    with pytest.raises(errors.DataError) as raised:
        serving.serve(any_of, "train", data_dir=str(tmp_path), order=("files",))
    assert "no source has train of numbers" in str(raised.value)
    assert "files: no mine.txt; from example.org/mine" in str(raised.value)
    with pytest.raises(errors.DataError, match="has no split test, only train, dev"):
        serving.serve(any_of, "test", data_dir=str(tmp_path))


def test_an_unknown_kind_or_protocol_or_part_is_refused():
    with pytest.raises(errors.ConfigError, match="Did you mean: files"):
        tasks.DataOptions("", sources=("file",))
    with pytest.raises(errors.ConfigError, match="protocol 't0'"):
        tasks.DataOptions("", protocol="t0")
    with pytest.raises(errors.ConfigError, match="name\\[start:stop\\]"):
        serving.Part.parse("train[:3]~x")


def test_rows_without_the_datasets_fields_are_refused(any_of, tmp_path):
    wrong = serving.AnyOf("numbers", any_of.options, fields=("n", "m"))
    with pytest.raises(errors.DataError, match="rows without m, only with n"):
        list(wrong.rows("train", data_dir=str(tmp_path)))


def test_parts_keep_the_sources_order_and_its_gaps():
    whole = list(with_gaps())
    assert list(serving.Part.parse("train").of(with_gaps)) == whole
    both = [
        list(serving.Part.parse(f"train{part}").of(with_gaps))
        for part in ("[:4]", "[4:]")
    ]
    assert both[0] + both[1] == whole
    rows = list(serving.Part.parse("train[:3]~42").of(with_gaps))
    served_numbers = [row["n"] for row in rows if not isinstance(row, sources.Skipped)]
    assert served_numbers == sorted(serving.torch_permutation(10, 42)[:3].tolist())


@hypothesis.given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 9))
def test_two_random_parts_are_the_whole_and_share_nothing(count, cut, seed):
    def rows():
        return ({"n": n} for n in range(count))

    first = serving.Part("train", 0, cut, seed).of(rows)
    last = serving.Part("train", cut, None, seed).of(rows)
    numbers = [row["n"] for row in first], [row["n"] for row in last]
    assert sorted(numbers[0] + numbers[1]) == list(range(count))
    assert len(numbers[0]) == min(cut, count)


def test_the_permutation_is_torchs():
    # From torch 2.13: g.manual_seed(42); torch.randperm(2985, generator=g)[:12].
    expected = [147, 2892, 1362, 2017, 2228, 2140, 2020, 1443, 2028, 1346, 563, 2905]
    assert serving.torch_permutation(2985, 42)[:12].tolist() == expected
    for count in (0, 1, 2):
        permutation = serving.torch_permutation(count, 7)
        np.testing.assert_array_equal(np.sort(permutation), np.arange(count))


def test_a_protocols_own_rows_replace_the_split_of_that_name(any_of, tmp_path):
    task = tasks.Task(
        name="n",
        dataset="n",
        prompt="n",
        cluster="",
        source=any_of,
        template=templates.Template("n", "1", "{{n}}? ||| {{n}}"),
        metrics=(),
        splits={"train": "train", "train@elm": "train[:5]", "half": "train[10:]"},
    )
    for protocol, count in (("", 20), ("elm", 5)):
        data_options = tasks.DataOptions("", str(tmp_path), protocol=protocol)
        assert len(rendering.render_split(task, "train", data_options)) == count
        assert len(rendering.render_split(task, "half", data_options)) == 10


def test_prompted_records_need_no_template(tmp_path):
    def prompted(paths, split):
        yield sources.Prompted("Which?", "b", ("a", "b"))
        yield sources.Prompted("Which?", "c", ("a", "b"))
        yield sources.Prompted("Say a.", "a")

    (tmp_path / "f").write_text("")
    source = sources.FileRows(prompted, {"train": ["f"]}, "here", is_prompted=True)
    task = tasks.Task(
        "n", "n", "n", "", source, template_files.TemplateRef("no", "such"),
        ("accuracy",),
        max_bad_share=0.5,
    )  # fmt: skip
    rendered = rendering.render_split(
        task, "train", tasks.DataOptions("", str(tmp_path))
    )
    assert rendered.inputs == ["Which?", "Say a."]
    assert rendered.labels == [1, -1]
    assert rendered.dropped == {"bad: no correct choice": 1}


def test_a_row_that_cannot_be_converted_is_bad_and_stops_no_other(tmp_path):
    generated = sources.GeneratedRows(
        lambda split: [{"n": "1"}, {"n": None}, {"n": "3"}], version="1"
    )
    same = {"train": "train"}
    option = serving.Option("hub", generated, same, lambda row: {"n": int(row["n"])})
    any_of = serving.AnyOf("d", (option,), fields=("n",))
    first, second, third = serving.serve(any_of, "train", data_dir="").rows()
    assert (first, third) == ({"n": 1}, {"n": 3})
    assert isinstance(second, sources.Bad)
    assert second.reason == serving.NOT_CONVERTED
    assert "TypeError" in second.detail

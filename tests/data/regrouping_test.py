"""Rows put together anew: splits, names, fingerprints, and what is missing."""

import pytest

from elm_jax import errors
from elm_jax.data import regrouping, serving, sources


def halves(rows, split):
    for number, row in enumerate(rows):
        if (number < 2) == (split == "first"):
            yield row


def others(rows, split):
    del split
    yield from rows


def regrouped(fn=halves):
    files = sources.FileRows(sources.json_lines, {"all": ["n.jsonl"]}, "a place")
    return regrouping.Regrouped(files, fn, {"first": "all", "second": "all"})


def test_two_splits_come_from_one_and_share_no_row(tmp_path):
    (tmp_path / "n.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(5)))
    source = regrouped()
    by_split = {s: list(source.rows(s, data_dir=str(tmp_path))) for s in source.splits}
    assert by_split == {
        "first": [{"n": 0}, {"n": 1}],
        "second": [{"n": 2}, {"n": 3}, {"n": 4}],
    }


def test_the_fingerprint_changes_with_split_function_and_files(tmp_path):
    path = tmp_path / "n.jsonl"
    path.write_text('{"n": 0}\n')
    of_first = regrouped().fingerprint("first", data_dir=str(tmp_path))
    assert of_first == regrouped().fingerprint("first", data_dir=str(tmp_path))
    assert of_first != regrouped().fingerprint("second", data_dir=str(tmp_path))
    assert of_first != regrouped(others).fingerprint("first", data_dir=str(tmp_path))
    path.write_text('{"n": 1}\n')
    assert of_first != regrouped().fingerprint("first", data_dir=str(tmp_path))


def test_it_serves_under_the_sources_name_and_says_what_the_source_lacks(tmp_path):
    same = {"first": "first"}
    chosen = serving.AnyOf("d", (serving.Option("files", regrouped(), same),))
    assert "n.jsonl" in regrouped().missing("first", data_dir=str(tmp_path))
    (tmp_path / "n.jsonl").write_text('{"n": 0}\n')
    served = serving.serve(chosen, "first", data_dir=str(tmp_path))
    assert served.name == "files: a place"
    generated = sources.GeneratedRows(lambda split: [], "1")
    assert not regrouping.Regrouped(generated, others, same).missing(
        "first", data_dir=""
    )


def lengths(rows, split):
    del split
    yield from ({"n": len(row["n"])} for row in rows)


def test_a_row_that_cannot_be_put_together_is_told_not_thrown(tmp_path):
    (tmp_path / "n.jsonl").write_text('{"n": "a"}\n{"n": null}\n')
    with pytest.raises(errors.DataError, match="all of a place, .* by lengths: Type"):
        list(regrouped(lengths).rows("first", data_dir=str(tmp_path)))

"""The fuzzer itself: a seed gives the same inputs, and it sees what goes wrong."""

import collections
import random

import pytest

from tests.fuzz import campaign, contract, formats, mutators, names


def test_every_format_has_a_share():
    assert formats.FORMATS.keys() == names.SHARES.keys()


@pytest.mark.parametrize("name", ["csv", "yaml", "jsonl_gz"])
def test_a_seed_gives_the_same_damage(tmp_path, name):
    chosen, contents = formats.FORMATS[name], []
    for variant in (0, 1):
        (tmp_path / f"valid{variant}").mkdir()
        chosen.make(tmp_path / f"valid{variant}", variant)
    for attempt in range(2):
        folder = tmp_path / f"attempt{attempt}"
        folder.mkdir()
        chosen.make(folder, 0)
        donors = tmp_path / "valid1"
        mutators.damage(random.Random("3"), folder, donors, dict(chosen.damaged))
        contents.append(contract.content(folder))
    assert contents[0] == contents[1] != contract.content(tmp_path / "valid0")


@pytest.mark.slow
def test_each_class_is_told_of_one_input_after_another(monkeypatch):
    monkeypatch.setenv("ELM_FUZZ_BROKEN", "1")
    monkeypatch.setattr(campaign, "LIMIT_SECS", 1.0)
    kinds = ["typed", "raw", "memory", "crash", "hang", "silent", "outside"]
    inputs = [("broken", number) for number in range(len(kinds))]
    outcomes = list(campaign.run(inputs, seed=0))
    assert [outcome.kind for outcome in outcomes] == kinds, outcomes
    assert [(each.format, each.number) for each in outcomes] == inputs


def test_a_campaign_that_is_stopped_has_tried_all_formats_by_their_shares():
    count = 100 * sum(names.SHARES.values())
    inputs = campaign.shared_out(count, names.SHARES)
    counts = collections.Counter(name for name, _ in inputs[: len(inputs) // 10])
    whole = collections.Counter(name for name, _ in inputs)
    assert counts.keys() == names.SHARES.keys()
    assert all(abs(counts[name] - whole[name] / 10) <= 1 for name in counts)
    assert all(inputs.index((name, 0)) < inputs.index((name, 1)) for name in counts)

"""The index grows without changing a byte of what it holds."""

import json

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.library import index

SETTINGS = index.IndexSettings(embedder="bag", text_format="instance")


def new_expert(name, *texts, rows=None, task="t", split="train"):
    rows = tuple(range(len(texts))) if rows is None else rows
    return index.NewExpert(name, texts, (index.RowsUsed(task, split, rows),))


CATS = new_expert("cats", "a cat", "two cats", "the cat sat")
DOGS = new_expert("dogs", "a dog", "two dogs", rows=(4, 9))
BIRDS = new_expert("birds", "a bird")


@pytest.fixture
def extend(tmp_path, make_embedder):
    def extend(*new, folder=tmp_path, settings=SETTINGS, **options):
        embedder = options.pop("embedder", None) or make_embedder()
        return index.extend(
            folder, new, embedder=embedder, settings=settings, **options
        )

    return extend


def test_what_was_written_is_what_is_opened(tmp_path, extend, make_embedder):
    written = extend(CATS, DOGS)
    opened = index.open_index(tmp_path)
    assert opened.settings == written.settings == SETTINGS
    assert opened.experts == written.experts
    assert opened.names == ("cats", "dogs")
    np.testing.assert_array_equal(opened.owners, [0, 0, 0, 1, 1])
    expected = make_embedder().embed([*CATS.texts, *DOGS.texts])
    np.testing.assert_array_equal(opened.keys, expected)
    assert opened.keys.dtype == np.float32


def test_extending_keeps_every_byte_of_the_old_keys_and_embeds_none_again(
    tmp_path, extend, make_embedder
):
    extend(CATS, DOGS)
    before = index.open_index(tmp_path)
    raw_before = (tmp_path / "keys.npy").read_bytes()[-before.keys.nbytes :]
    embedder = make_embedder()
    after = extend(BIRDS, embedder=embedder)
    raw_after = (tmp_path / "keys.npy").read_bytes()[-after.keys.nbytes :]
    assert raw_after[: len(raw_before)] == raw_before
    assert after.experts[:2] == before.experts
    assert embedder.num_texts == 1


def test_the_order_of_building_changes_no_byte(tmp_path, extend):
    at_once = extend(CATS, DOGS, BIRDS, folder=tmp_path / "at_once")
    for expert in (CATS, DOGS, BIRDS):
        extend(expert, folder=tmp_path / "one_by_one")
    for name in ("keys.npy", "owners.npy", "index.json"):
        content = (tmp_path / "one_by_one" / name).read_bytes()
        assert content == (tmp_path / "at_once" / name).read_bytes(), name
    assert at_once.names == ("cats", "dogs", "birds")


def test_the_same_call_again_embeds_nothing(extend, make_embedder):
    first = extend(CATS, DOGS)
    embedder = make_embedder()
    again = extend(CATS, DOGS, embedder=embedder)
    assert embedder.num_texts == 0
    assert again.keys.tobytes() == first.keys.tobytes()


def test_a_killed_extension_leaves_the_old_index_and_can_be_repeated(tmp_path, extend):
    extend(CATS)
    old_record = (tmp_path / "index.json").read_bytes()
    whole = extend(DOGS)
    # As if killed after the arrays were replaced and before the record was.
    (tmp_path / "index.json").write_bytes(old_record)
    left = index.open_index(tmp_path)
    assert left.names == ("cats",)
    assert len(left.keys) == len(left.owners) == 3
    again = extend(DOGS)
    assert again.keys.tobytes() == whole.keys.tobytes()


def test_work_done_before_a_failure_is_kept(tmp_path, extend, make_embedder):
    class Failing(make_embedder):
        def embed(self, texts):
            if "bird" in texts[0]:
                raise KeyboardInterrupt
            return super().embed(texts)

    with pytest.raises(KeyboardInterrupt):
        extend(CATS, DOGS, BIRDS, embedder=Failing())
    assert index.open_index(tmp_path).names == ("cats", "dogs")


def test_progress_counts_the_keys_that_are_made(extend):
    calls = []
    extend(CATS)
    extend(CATS, DOGS, BIRDS, progress=lambda *call: calls.append(call))
    assert calls == [(2, 3), (3, 3)]


def test_rows_used_names_the_rows_of_one_split_only(extend):
    of_test_split = new_expert("other", "x", rows=(5,), split="test")
    both = index.NewExpert(
        "both",
        ["p", "q"],
        (index.RowsUsed("t", "train", (7,)), index.RowsUsed("u", "train", (8,))),
    )
    written = extend(DOGS, of_test_split, both)
    assert written.rows_used("t", "train") == {4, 9, 7}
    assert written.rows_used("u", "train") == {8}
    assert written.rows_used("u", "test") == frozenset()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_format": "label"}, "text_format='label'"),
        ({"num_keys": 5}, "num_keys=5"),
        ({"seed": 1}, "seed=1"),
    ],
)
def test_other_settings_than_the_keys_were_made_with_are_refused(
    extend, change, message
):
    extend(CATS)
    values = {"embedder": "bag", "text_format": "instance"} | change
    with pytest.raises(errors.LibraryError, match=message):
        extend(DOGS, settings=index.IndexSettings(**values))


def test_another_embedder_or_width_is_refused(extend, make_embedder):
    extend(CATS)
    with pytest.raises(errors.LibraryError, match="embedder sack"):
        extend(DOGS, embedder=make_embedder("sack"))
    with pytest.raises(errors.LibraryError, match=r"keys \(2, 3\)"):
        extend(DOGS, embedder=make_embedder(width=3))


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ([CATS, CATS], "given twice"),
        ([new_expert("none")], "without texts"),
        ([new_expert("uneven", "a", rows=(1, 2))], "of no known row"),
        ([], "no expert at all"),
    ],
)
def test_bad_experts_are_refused_before_anything_is_embedded(
    extend, make_embedder, tmp_path, new, message
):
    embedder = make_embedder()
    with pytest.raises(errors.LibraryError, match=message):
        extend(*new, embedder=embedder)
    assert embedder.num_texts == 0
    assert not (tmp_path / "index.json").exists()


def test_new_texts_for_an_old_name_are_refused(extend):
    extend(CATS)
    with pytest.raises(errors.LibraryError, match="keys of other texts.*cats"):
        extend(new_expert("cats", "a lion"))


def test_keys_that_are_not_finite_are_refused(extend, make_embedder):
    class Broken(make_embedder):
        def embed(self, texts):
            return super().embed(texts) * np.float32(np.nan)

    with pytest.raises(errors.LibraryError, match="not finite"):
        extend(CATS, embedder=Broken())


def test_an_unknown_text_format_is_refused_at_once():
    with pytest.raises(errors.ConfigError, match="Did you mean"):
        index.IndexSettings(embedder="bag", text_format="instnace")


def damage_record(folder):
    (folder / "index.json").write_text("{")


def damage_version(folder):
    record = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(record | {"format_version": 9}))


def lead_elsewhere(folder):
    record = json.loads((folder / "index.json").read_text())
    record["experts"][0]["name"] = "../x"
    (folder / "index.json").write_text(json.dumps(record))


def damage_keys(folder):
    np.save(folder / "keys.npy", np.zeros((2, 64), np.float32))


def damage_owners(folder):
    np.save(folder / "owners.npy", np.zeros(5, np.int32))


def cut_keys(folder):
    content = (folder / "keys.npy").read_bytes()
    (folder / "keys.npy").write_bytes(content[:-7])


def empty_keys(folder):
    (folder / "keys.npy").write_bytes(b"")


def pickle_keys(folder):
    np.save(folder / "keys.npy", np.array([{}], object), allow_pickle=True)


def remove_owners(folder):
    (folder / "owners.npy").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_record,
        damage_version,
        lead_elsewhere,
        damage_keys,
        damage_owners,
        cut_keys,
        empty_keys,
        pickle_keys,
        remove_owners,
    ],
)
def test_a_damaged_index_is_refused_by_name(tmp_path, extend, damage):
    extend(CATS, DOGS)
    damage(tmp_path)
    with pytest.raises(errors.LibraryError, match="build it again"):
        index.open_index(tmp_path)


def test_a_missing_index_says_to_build_one(tmp_path):
    with pytest.raises(errors.LibraryError, match="Build the library"):
        index.open_index(tmp_path / "nowhere")


def test_one_key_times_a_million_is_refused_by_its_expert(tmp_path, extend):
    extend(CATS, DOGS)
    keys = np.load(tmp_path / "keys.npy")
    keys[3] *= 1e6
    np.save(tmp_path / "keys.npy", keys)
    with pytest.raises(errors.LibraryError, match="other keys of 'dogs'"):
        index.open_index(tmp_path)


def as_release_0_1_wrote_it(folder):
    record = json.loads((folder / "index.json").read_text())
    del record["digest"]
    for expert in record["experts"]:
        del expert["keys_sha256"]
    (folder / "index.json").write_text(json.dumps(record))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_keys_that_are_not_finite_are_refused_also_without_hashes(
    tmp_path, extend, value
):
    extend(CATS)
    as_release_0_1_wrote_it(tmp_path)
    keys = np.load(tmp_path / "keys.npy")
    keys[1, 2] = value
    np.save(tmp_path / "keys.npy", keys)
    with pytest.raises(errors.LibraryError, match="not finite"):
        index.open_index(tmp_path)


def test_an_index_of_release_0_1_opens_with_a_note_and_gets_hashes_as_it_grows(
    tmp_path, extend, capsys
):
    written = extend(CATS, DOGS)
    as_release_0_1_wrote_it(tmp_path)
    opened = index.open_index(tmp_path)
    assert opened.keys.tobytes() == written.keys.tobytes()
    assert "without hashes" in capsys.readouterr().err
    extend(BIRDS)
    capsys.readouterr()
    grown = index.open_index(tmp_path)
    assert grown.experts[:2] == written.experts
    assert capsys.readouterr().err == ""


def test_a_claimed_shape_takes_no_memory(tmp_path, extend):
    extend(CATS)
    content = (tmp_path / "keys.npy").read_bytes()
    claimed = content.replace(b"'shape': (3, ", b"'shape': (3000000000000, ")
    (tmp_path / "keys.npy").write_bytes(claimed)
    with pytest.raises(errors.LibraryError, match="build it again"):
        index.open_index(tmp_path)
    shorter = claimed.replace(b" " * 12 + b"\n", b"\n")  # the header's padding
    (tmp_path / "keys.npy").write_bytes(shorter)
    with pytest.raises(errors.LibraryError, match=r"bytes for \[30+, "):
        index.open_index(tmp_path)


@pytest.mark.slow
def test_no_random_damage_gives_another_index(tmp_path, extend):
    written = extend(CATS, DOGS)
    rng, refused = np.random.default_rng(0), 0
    names = ("keys.npy", "owners.npy", "index.json")
    contents = {name: (tmp_path / name).read_bytes() for name in names}
    for n in range(300):
        name = names[n % 3]
        damaged = bytearray(contents[name])
        place = int(rng.integers(len(damaged)))
        if n // 3 % 3 == 0:
            damaged[place] ^= 1 << int(rng.integers(8))
        elif n // 3 % 3 == 1:
            part = damaged[place : place + 4]
            damaged[place : place + 4] = rng.bytes(len(part))
        else:
            del damaged[place:]
        (tmp_path / name).write_bytes(damaged)
        try:
            opened = index.open_index(tmp_path)
        except errors.LibraryError:
            refused += 1
        else:
            assert opened.experts == written.experts, (name, place)
            assert opened.settings == written.settings, (name, place)
            assert opened.keys.tobytes() == written.keys.tobytes(), (name, place)
        (tmp_path / name).write_bytes(contents[name])
    assert refused > 250

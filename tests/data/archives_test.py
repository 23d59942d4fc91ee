"""Every damage of an archive of rows that its format can show is an error."""

import bz2
import gzip
import io
import lzma
import random
import tarfile

import pytest

from elm_jax import errors
from elm_jax.data import archives
from tasks import public_files

PACK = {"tar": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def make_tar(texts, *, ends=True):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
        end = archive.offset
    return content.getvalue()[: None if ends else end]


def make_reviews(count):
    words = ("the", "a", "good", "bad", "film", "was", "very", "plot", "actor", "great")
    draw = random.Random(5)  # noqa: S311
    return {
        f"aclImdb/train/{('neg', 'pos')[n % 2]}/{n}_1.txt": " ".join(
            draw.choices(words, k=60)
        ).encode()
        for n in range(count)
    }


REVIEWS = make_reviews(40)
TAR = make_tar(REVIEWS)


@pytest.fixture
def rows(tmp_path):
    """Writes an archive of reviews, and returns the rows that are read."""
    path = tmp_path / "imdb/aclImdb_v1.tar.gz"
    path.parent.mkdir()

    def read(content):
        path.write_bytes(content)
        reviews = public_files.FILES["imdb"].rows("train", data_dir=str(tmp_path))
        return [row["text"].encode("utf-8", "surrogateescape") for row in reviews]

    return read


@pytest.mark.parametrize("kind", PACK)
def test_a_whole_archive_is_read_however_it_is_packed(rows, kind):
    assert rows(PACK[kind](TAR)) == list(REVIEWS.values())


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_one_flipped_bit_of_a_packed_archive_is_an_error_or_changes_no_row(rows, kind):
    good, draw = PACK[kind](TAR), random.Random(7)  # noqa: S311
    num_refused = 0
    for _ in range(150):
        damaged = bytearray(good)
        damaged[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        try:
            assert rows(bytes(damaged)) == list(REVIEWS.values())
        except errors.DataError as error:
            assert "aclImdb_v1" in str(error)  # noqa: PT017
            num_refused += 1
    assert num_refused > 140  # all but the time and the like in the packing's header


@pytest.mark.parametrize("kind", PACK)
def test_an_archive_that_ends_too_early_is_an_error(rows, kind):
    good, draw = PACK[kind](TAR), random.Random(9)  # noqa: S311
    # The reader needs one block of zeros of the padding that ends a plain one.
    last = len(make_tar(REVIEWS, ends=False)) if kind == "tar" else len(good) - 1
    for length in [0, 1, 2, last, *(draw.randrange(last) for _ in range(60))]:
        with pytest.raises(errors.DataError):
            rows(good[:length])


@pytest.mark.parametrize("kind", ["tar", "gz"])
def test_a_header_with_a_wrong_checksum_is_not_the_end(rows, kind):
    damaged = bytearray(TAR)
    place = TAR.index(b"aclImdb/train/neg/20_1.txt")
    damaged[place] ^= 1
    with pytest.raises(errors.DataError, match="header"):
        rows(PACK[kind](bytes(damaged)))


@pytest.mark.parametrize("kind", ["tar", "gz"])
def test_what_follows_the_end_is_an_error(rows, kind):
    with pytest.raises(errors.DataError, match="goes on after its end"):
        rows(PACK[kind](TAR + make_tar(make_reviews(1))))


def test_an_archive_without_its_end_is_an_error(rows):
    with pytest.raises(errors.DataError, match="header"):
        rows(gzip.compress(make_tar(REVIEWS, ends=False)))


def make_sparse():
    size = 100 << 30
    member = tarfile.TarInfo("aclImdb/train/pos/sp.txt")
    member.size = 512
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    member.pax_headers |= {"GNU.sparse.name": member.name}
    member.pax_headers |= {"GNU.sparse.realsize": str(size)}
    content, map_of_it = io.BytesIO(), b"1\n%d\n0\n" % size
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(map_of_it.ljust(512, b"\0")))
    return content.getvalue()


def make_claim(kind, size):
    """An archive whose header claims a size that it has not."""
    member = tarfile.TarInfo("aclImdb/train/pos/1_1.txt")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)


@pytest.mark.parametrize(
    "content",
    [
        make_sparse(),
        make_claim(tarfile.REGTYPE, 1 << 40),
        make_claim(tarfile.XHDTYPE, 1 << 40),
        make_claim(tarfile.GNUTYPE_LONGNAME, 1 << 40),
        make_claim(tarfile.REGTYPE, -512),
    ],
    ids=["sparse", "file", "pax", "long name", "negative"],
)
def test_sizes_that_a_header_claims_are_not_believed(rows, content):
    with pytest.raises(errors.DataError, match="bytes"):
        rows(gzip.compress(content))


def test_an_archive_that_unpacks_to_more_than_the_limit_is_an_error(rows, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 2**20)
    bomb = make_tar({"aclImdb/train/unsup/0_0.txt": bytes(2**21)})
    with pytest.raises(errors.DataError, match="more than 1,048,576 bytes"):
        rows(gzip.compress(bomb))

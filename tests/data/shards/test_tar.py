"""Archives are written as everybody writes them and read whoever wrote them; damage is never taken for the end."""

import contextlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import webdataset

from tinygptv.data.shards import tar
from tinygptv.data.shards.tar import Archive
from tinygptv.errors import DataError


def archive(path: Path, files: Sequence[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as writer:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            writer.addfile(member, io.BytesIO(content))
    return path


def samples(count: int) -> list[tuple[str, bytes]]:
    return [(f"{n:04d}.{ext}", f"{ext} {n}".encode() * 50) for n in range(count) for ext in ("jpg", "txt")]


def seen_by_webdataset(path: Path, **options: object) -> list[dict[str, bytes]]:
    return list(webdataset.WebDataset([str(path)], shardshuffle=False, **options))


def flip(path: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize(("name", "size"), [("a.jpg", 0), ("0" * 80 + ".json", 123_456_789), ("k.txt", 8**11 - 1)])
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    assert tar.header(name, size) == member.tobuf(tarfile.USTAR_FORMAT)


def test_what_does_not_fit_a_header_is_refused() -> None:
    for name, size in (("k.jpg", 8**11), ("k" * 101, 1)):
        with pytest.raises(ValueError, match="do not fit"):
            tar.header(name, size)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_others_are_read(tmp_path: Path, form: int) -> None:
    deep = "folder/" + "d" * 90 + "/" + "n" * 60
    files = [("a/0001.jpg", b"x" * 700), (f"{deep}.jpg", b"y"), (f"{deep}.txt", b""), ("0002.seg.png", b"z" * 512)]
    if form != tarfile.USTAR_FORMAT:
        files.append(("é" * 80 + ".jpg", b"long and foreign"))
    with Archive(archive(tmp_path / "a.tar", files, form)) as read:
        contents = {f"{key}.{ext}": content for key, sample in read for ext, content in sample.items()}
    assert contents == dict(files)


def test_a_size_in_gnu_binary_form_is_understood() -> None:
    member = tarfile.TarInfo("large.jpg")
    member.size = 10 << 30
    block = member.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(DataError, match="cut at byte 1536"):
        list(tar.members(block + bytes(1024), "a.tar"))


def test_what_webdataset_writes_is_read(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number}", "jpg": b"\xff\xd8" * 99, "txt": "naïve", "json": {"n": number}})
    with Archive(tmp_path / "a.tar") as read:
        assert [(key, sample["txt"].decode(), sample["json"]) for key, sample in read] == [
            (str(number), "naïve", b'{"n": %d}' % number) for number in range(3)
        ]


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as writer:
        for name, kind in (("folder", tarfile.DIRTYPE), ("0.jpg", tarfile.REGTYPE), ("1.jpg", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            writer.addfile(member)
    with Archive(tmp_path / "a.tar") as read:
        assert list(read.samples) == ["0"]


# Damage


def test_a_damaged_header_is_an_error_where_webdataset_stops_in_silence(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", samples(10))
    flip(path, 2 * 1024 + 3)
    assert len(seen_by_webdataset(path)) == 1
    with pytest.raises(DataError, match=r"a\.tar: damaged header at byte 2048, after 2 files"):
        Archive(path)


def test_no_flipped_bit_of_a_header_escapes() -> None:
    """Save in how the checksum itself is filled up, which says nothing: a zero may be a blank."""
    whole = bytearray(tar.header("0001.jpg", 100) + bytes(512) + tar.END)
    unharmed = list(tar.members(bytes(whole), "a.tar"))
    escaped = set()
    for position in range(512 * 8):
        whole[position // 8] ^= 1 << position % 8
        with contextlib.suppress(DataError):
            assert list(tar.members(bytes(whole), "a.tar")) == unharmed
            escaped.add(position // 8)
        whole[position // 8] ^= 1 << position % 8
    assert escaped <= set(range(148, 156))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (1024 * 7 + 600, r"cut at byte 7768, within the file at 7168, after 7 files"),
        (1024 * 7 + 100, r"ends at byte 7268 without an end mark, after 7 files"),
        (1024 * 7, r"ends at byte 7168 without an end mark, after 7 files"),
    ],
)
def test_a_truncated_archive_says_how_much_is_left(tmp_path: Path, kept: int, message: str) -> None:
    path = archive(tmp_path / "a.tar", samples(10))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=message):
        Archive(path)


def test_an_empty_or_missing_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").touch()
    with pytest.raises(DataError, match=r"empty\.tar: this shard is empty"):
        Archive(tmp_path / "empty.tar")
    with pytest.raises(DataError, match=r"gone\.tar: this shard is missing"):
        Archive(tmp_path / "gone.tar")


@pytest.mark.parametrize("place", [1, 3])
def test_a_file_that_occurs_twice_is_refused(tmp_path: Path, place: int) -> None:
    files = samples(2)
    files.insert(place, files[0])
    with pytest.raises(DataError, match=r"0000\.jpg occurs twice"):
        Archive(archive(tmp_path / "a.tar", files))


def test_files_of_a_sample_need_not_be_neighbours(tmp_path: Path) -> None:
    files = [("0.jpg", b"zero"), ("1.jpg", b"one"), ("0.txt", b"a nought"), ("1.txt", b"a stroke")]
    path = archive(tmp_path / "a.tar", files)
    assert len(seen_by_webdataset(path)) == 4
    with Archive(path) as read:
        assert dict(read) == {"0": {"jpg": b"zero", "txt": b"a nought"}, "1": {"jpg": b"one", "txt": b"a stroke"}}


def test_keys_are_split_at_the_first_dot_as_webdataset_does(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", [("a.b/img.v2.jpg", b"picture")])
    (seen,) = seen_by_webdataset(path)
    with Archive(path) as read:
        assert dict(read) == {seen["__key__"]: {"v2.jpg": b"picture"}}


def test_a_damaged_extension_header_does_not_hang_or_crash(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", [("é.jpg", b"picture")], tarfile.PAX_FORMAT)
    for byte in range(512, 560):
        content = bytearray(path.read_bytes())
        content[byte] = 0x30
        assert len(list(tar.members(bytes(content), "a.tar"))) == 1

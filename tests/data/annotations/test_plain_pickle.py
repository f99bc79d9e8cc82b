"""A pickle of plain values is read as Python would; one that is a program is refused, and nothing of it runs."""

from pathlib import Path

import pytest

from tinygptv.data.annotations.plain_pickle import read_plain_pickle
from tinygptv.errors import DataError

VALUE = [
    {
        "ref_id": 7,
        "split": "train",
        "box": [1.5, -2, 300, 70000, 2**40],
        "sentences": [{"raw": "left dog", "tokens": ("left", "dog")}],
        "flags": (True, None, ()),
        "more": {},
    }
]
PICKLES = {
    "protocol 0": (
        b"(lp0\n(dp1\nVref_id\np2\nI7\nsVsplit\np3\nVtrain\np4\nsVbox\np5\n(lp6\nF"
        b"1.5\naI-2\naI300\naI70000\naL1099511627776L\nasVsentences\np7\n(lp8"
        b"\n(dp9\nVraw\np10\nVleft dog\np11\nsVtokens\np12\n(Vleft\np13\nVdog\np1"
        b"4\ntp15\nsasVflags\np16\n(I01\nN(ttp17\nsVmore\np18\n(dp19\nsa."
    ),
    "protocol 2": (
        b"\x80\x02]q\x00}q\x01(X\x06\x00\x00\x00ref_idq\x02K\x07X\x05\x00\x00\x00splitq\x03X\x05\x00\x00"
        b"\x00trainq\x04X\x03\x00\x00\x00boxq\x05]q\x06(G?\xf8\x00\x00\x00\x00\x00\x00J\xfe\xff\xff\xffM,"
        b"\x01Jp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01eX\t\x00\x00\x00sentencesq\x07]q\x08}q\t(X\x03"
        b"\x00\x00\x00rawq\nX\x08\x00\x00\x00left dogq\x0bX\x06\x00\x00\x00tokensq\x0cX\x04\x00\x00\x00left"
        b"q\rX\x03\x00\x00\x00dogq\x0e\x86q\x0fuaX\x05\x00\x00\x00flagsq\x10\x88N)\x87q\x11X\x04\x00\x00"
        b"\x00moreq\x12}q\x13ua."
    ),
    "protocol 4": (
        b"\x80\x04\x95\x9d\x00\x00\x00\x00\x00\x00\x00]\x94}\x94(\x8c\x06ref_id\x94K\x07\x8c\x05split\x94"
        b"\x8c\x05train\x94\x8c\x03box\x94]\x94(G?\xf8\x00\x00\x00\x00\x00\x00J\xfe\xff\xff\xffM,\x01Jp\x11"
        b"\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01e\x8c\tsentences\x94]\x94}\x94(\x8c\x03raw\x94\x8c\x08lef"
        b"t dog\x94\x8c\x06tokens\x94\x8c\x04left\x94\x8c\x03dog\x94\x86\x94ua\x8c\x05flags\x94\x88N)\x87"
        b"\x94\x8c\x04more\x94}\x94ua."
    ),
}
OF_PYTHON_2 = (
    b"(lp0\n(dp1\nS'sent_ids'\np2\n(lp3\nI0\naI1\nasS'file_name'\np4\nS'COCO_train201"
    b"4_000000581857_16.jpg'\np5\nsS'ann_id'\np6\nI1719310\nsS'raw'\np7\nVTHE l\\u00"
    b"e9ft one\np8\nsa."
)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "refs(unc).p"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", PICKLES)
def test_plain_values_are_read_in_every_protocol(tmp_path: Path, protocol: str) -> None:
    assert read_plain_pickle(write(tmp_path, PICKLES[protocol])) == VALUE


def test_what_python_2_wrote_is_read(tmp_path: Path) -> None:
    (ref,) = read_plain_pickle(write(tmp_path, OF_PYTHON_2))
    assert ref == {
        "sent_ids": [0, 1],
        "file_name": "COCO_train2014_000000581857_16.jpg",
        "ann_id": 1719310,
        "raw": "THE l\u00e9ft one",
    }


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"(S'touch ran'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.",
        b"(lp0\nP1\na.",
    ],
)
def test_a_pickle_that_would_run_something_is_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"\(opcode .* is not allowed.*nothing in it was executed"):
        read_plain_pickle(write(tmp_path, program))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("length", [0, 1, 20, 100])
def test_a_pickle_cut_short_is_named(tmp_path: Path, length: int) -> None:
    with pytest.raises(DataError, match=r"refs\(unc\).p"):
        read_plain_pickle(write(tmp_path, PICKLES["protocol 2"][:length]))

"""What is to be forgotten is masked at once and left out of all that is made later."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tinygptv import catalog
from tinygptv.data.filters.filtering import filter_source
from tinygptv.data.forget.forget import matches
from tinygptv.data.forget.tombstones import TOMBSTONES, Kind, bury, tombstone, tombstones
from tinygptv.data.mixtures.mixing import MixedSamples, mix
from tinygptv.data.shards.shards import ShardWriter, content_hash
from tinygptv.definitions.filters import SIDECAR_COLUMNS, FilterChain, Rule
from tinygptv.errors import DataError, DefinitionError
from tinygptv.store.artifacts import Manifest, Outcome, Store

PAIRS: dict[str, dict[str, Any]] = {
    "a": {"url": "http://art.example.org/a.jpg", "caption": "a red ball"},
    "b": {"url": "http://shop.com/b.jpg", "caption": "a portrait of Jane Doe"},
    "c": {"url": "http://EXAMPLE.org:8080/c.jpg", "caption": "a blue ball"},
    "d": {"url": "http://notexample.org/d.jpg", "host": "notexample.org", "caption": "a green ball"},
    "e": {"url": "__BASE_URL__/e.jpg", "caption": "a ball", "caption_raw": "a ball of jane  doe"},
    "f": {"url": "http://shop.com/f.jpg", "caption": "six balls", "content_sha256": "f" * 64},
}
CHAIN = FilterChain(about="test", rules=[Rule(name="red", keep="caption NOT LIKE '%red%'", why="test")])
REQUESTS: list[tuple[Kind, str, set[str]]] = [
    ("url", "http://shop.com/b.jpg", {"b"}),
    ("url", "__BASE_URL__/e.jpg", {"e"}),
    ("domain", "Example.org.", {"a", "c"}),
    ("domain", "shop.com", {"b", "f"}),
    ("sha256", "F" * 64, {"f"}),
    ("caption", r"(?i)jane\s+doe", {"b", "e"}),
    ("caption", "o'clock", set()),
]


def pixels(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 40, 80, 120)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def raw(store: Store) -> Manifest:
    def build(draft: Path) -> Outcome:
        with ShardWriter(draft, 4) as shards:
            for number, (key, row) in enumerate(PAIRS.items()):
                image = pixels(number)
                stored = {"key": key, "sha256": content_hash(image), "bytes": len(image), "width": 16, "height": 16}
                shards.write(dict.fromkeys(SIDECAR_COLUMNS) | row | stored, image)
        return Outcome(rows_in=len(PAIRS), rows_out=len(PAIRS))

    return store.make("raw/t@1", "test", {}, [], build)


@pytest.fixture
def filtered(store: Store, raw: Manifest, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setattr(catalog, "filter_chain", {"chain": CHAIN}.__getitem__)
    return filter_source(store, "t", "chain", raw)


@pytest.fixture
def define(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mixture of the run's pairs and of five annotated pictures, one of them about Jane Doe."""
    for folder in ("sources", "mixtures", "image"):
        (tmp_path / "own" / folder).mkdir(parents=True)
    monkeypatch.setenv(catalog.OWN_DEFINITIONS, str(tmp_path / "own"))
    monkeypatch.setenv("TINYGPTV_DATA", str(tmp_path / "own"))
    said = ["one", "Jane Doe smiles", "three", "four", "five"]
    for number in range(len(said)):
        (tmp_path / "own" / "image" / f"{number}.jpg").write_bytes(pixels(number))
    records = [{"image_id": str(number), "caption": text} for number, text in enumerate(said)]
    (tmp_path / "own" / "cap.json").write_text(json.dumps({"annotations": records}))
    source = {"kind": "annotations", "about": "test", "licence": "none", "format": "cc_sbu_align"}
    source |= {"files": {"annotations": "data:cap.json"}, "images": "data:image"}
    (tmp_path / "own" / "sources" / "align.yaml").write_text(yaml.safe_dump(source))
    components = [
        {"source": "$source", "task": "caption", "weight": 1.0},
        {"source": "align", "task": "describe", "weight": 1.0},
    ]
    blend = {"about": "test", "draw": "per_sample", "components": components}
    (tmp_path / "own" / "mixtures" / "blend.yaml").write_text(yaml.safe_dump(blend))
    return tmp_path


def forget(store: Store, kind: Kind, value: str) -> None:
    bury(store, tombstone(kind, value, "asked for by its owner"))


@pytest.mark.parametrize(("kind", "value", "named"), REQUESTS)
def test_a_request_names_exactly_what_it_says(
    store: Store, raw: Manifest, kind: Kind, value: str, named: set[str]
) -> None:
    assert set(matches(store, raw.artifact, [tombstone(kind, value, "test")])) == named


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("domain", "http://example.org/a", "is no domain"),
        ("domain", " ", "is no domain"),
        ("sha256", "abc", "is no SHA-256"),
        ("image", "val2014/", "is no image file"),
        ("caption", "(", "cannot be read"),
        ("caption", ".*", "matches every caption"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(kind: Kind, value: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        tombstone(kind, value, "test")


def test_a_request_needs_a_reason() -> None:
    with pytest.raises(DefinitionError, match="say why"):
        tombstone("domain", "example.org", " ")


def test_a_request_is_written_down_once_and_in_order(store: Store) -> None:
    for domain in ("a.org", "b.org", "A.org"):
        forget(store, "domain", domain)
    assert [one.value for one in tombstones(store)] == ["a.org", "b.org"]
    assert [one.value for one in tombstones(store, 1)] == ["a.org"]
    assert len((store.read(TOMBSTONES) or "").splitlines()) == 2


def test_the_next_filter_leaves_it_out_under_its_own_reason(store: Store, raw: Manifest, filtered: Manifest) -> None:
    assert (filtered.rows_out, filtered.drops) == (5, {"red": 1})
    forget(store, "domain", "example.org")
    later = filter_source(store, "t", "chain", raw)
    assert (later.rows_out, later.drops) == (4, {"forgotten": 2})
    assert later.artifact != filtered.artifact
    assert filter_source(store, "t", "chain", raw, first_tombstones=0).artifact == filtered.artifact


def test_a_request_that_names_nothing_here_makes_nothing_new(store: Store, raw: Manifest, filtered: Manifest) -> None:
    forget(store, "domain", "elsewhere.net")
    assert filter_source(store, "t", "chain", raw).artifact == filtered.artifact


def test_a_finished_mixture_never_hands_out_what_is_masked(store: Store, filtered: Manifest, define: Path) -> None:
    blend = mix(store, "blend", filtered)
    forget(store, "caption", "(?i)jane +doe")
    mixed = MixedSamples(store, blend.artifact)
    assert mixed.sizes == (5, 5)
    drawn = [place for step in range(50) for place in mixed.order(1, 8).draw(step)]
    seen = {(sample.source, sample.key) for sample in mixed.samples(drawn)}
    assert {key for source, key in seen if source == "$source"} == {"c", "d", "f"}
    assert len({key for source, key in seen if source == "align"}) == 4
    assert not any("Jane" in turn.answer for sample in mixed.samples(drawn) for turn in sample.turns)
    hidden = next(place for place in range(5) if (mask := mixed.masks[0]) is not None and mask[place])
    with pytest.raises(DataError, match="is to be forgotten"):
        mixed.samples([(0, hidden)])


def test_whoever_opened_a_mixture_with_fewer_requests_draws_as_before(
    store: Store, filtered: Manifest, define: Path
) -> None:
    blend = mix(store, "blend", filtered)
    before = [MixedSamples(store, blend.artifact).order(1, 8).draw(step) for step in range(20)]
    forget(store, "url", "http://shop.com/b.jpg")
    known, unknown = (MixedSamples(store, blend.artifact, first) for first in (None, 0))
    assert [unknown.order(1, 8).draw(step) for step in range(20)] == before
    assert [known.order(1, 8).draw(step) for step in range(20)] != before
    assert (known.tombstones, unknown.tombstones) == (1, 0)


def test_the_next_mixture_leaves_out_what_its_texts_name(store: Store, filtered: Manifest, define: Path) -> None:
    before = mix(store, "blend", filtered)
    forget(store, "url", "http://shop.com/b.jpg")
    assert mix(store, "blend", filtered).artifact == before.artifact
    forget(store, "caption", "Jane")
    later = mix(store, "blend", filtered)
    assert later.drops == {"align: forgotten": 1}
    assert mix(store, "blend", filtered, first_tombstones=1).artifact == before.artifact


@pytest.mark.parametrize("named", ["3.jpg", "image/3.jpg", "/data:image/3.jpg"])
def test_an_annotated_picture_is_masked_and_left_out_by_the_end_of_its_path(
    store: Store, filtered: Manifest, define: Path, named: str
) -> None:
    before = mix(store, "blend", filtered)
    forget(store, "image", named)
    mask = MixedSamples(store, before.artifact).masks[1]
    assert mask is not None and mask.tolist() == [False, False, False, True, False]
    assert mix(store, "blend", filtered).drops == {"align: forgotten": 1}


def test_a_part_of_a_file_name_names_no_picture(store: Store, filtered: Manifest, define: Path) -> None:
    before = mix(store, "blend", filtered)
    forget(store, "image", "jpg")
    assert MixedSamples(store, before.artifact).masks == []
    assert mix(store, "blend", filtered).drops == {}


def test_a_mixture_of_which_nothing_is_left_is_refused(store: Store, filtered: Manifest, define: Path) -> None:
    blend = mix(store, "blend", filtered)
    forget(store, "caption", "a|e|o")
    with pytest.raises(DataError, match=r"nothing of \$source is left that may be used; mix again"):
        MixedSamples(store, blend.artifact)


def test_a_sidecar_of_an_older_layout_is_judged_by_what_it_has(store: Store, raw: Manifest, tmp_path: Path) -> None:
    table = pq.read_table(store.file(raw.artifact, "sidecar.parquet"))

    def build(folder: Path) -> Outcome:
        pq.write_table(table.drop_columns(["host", "caption_raw", "content_sha256"]), folder / "sidecar.parquet")
        return Outcome()

    old = store.make("raw/old@1", "test", {}, [], build)
    wanted = [tombstone("domain", "example.org", "test"), tombstone("caption", "Jane", "test")]
    assert matches(store, old.artifact, wanted) == ["a", "b", "c"]

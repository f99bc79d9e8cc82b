"""Who dropped what: first, alone and only; which duplicate survives; what is refused before any work."""

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tinygptv import catalog
from tinygptv.data.filters.filtering import check_chain, filter_source
from tinygptv.data.shards.shards import ShardWriter, content_hash, read_image, sidecar_rows
from tinygptv.definitions.filters import Deduplicate, FilterChain, Rule
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.errors import DataError, DefinitionError
from tinygptv.store.artifacts import Manifest, Outcome, Store

ROWS: list[dict[str, Any]] = [
    {"key": "a", "caption": "a large red ball on grass", "width": 64, "height": 64, "similarity": 0.30},
    {"key": "b", "caption": "a large red ball on grass", "width": 64, "height": 64, "similarity": 0.40, "same_as": "a"},
    {"key": "c", "caption": "tiny", "width": 8, "height": 8},
    {"key": "d", "caption": "a very long banner ad", "width": 400, "height": 40},
    {"key": "e", "caption": "a small long thing here", "width": 90, "height": 10, "table_name": "other"},
    {"key": "f", "caption": "a quiet street at night", "width": 64, "height": 48, "table_name": "other"},
]
CHAIN = FilterChain(
    about="test",
    rules=[
        Rule(name="min_side", keep="least(width, height) >= 32", why="small"),
        Rule(name="aspect_ratio", keep="greatest(width, height) <= 3 * least(width, height)", why="long"),
        Rule(name="caption_words", keep="len(string_split(caption, ' ')) >= 3", why="short"),
    ],
    duplicates=[Deduplicate(name="duplicate_image", by="sha256", order="similarity DESC NULLS LAST, key", why="same")],
)


@pytest.fixture
def raw(store: Store, picture: Callable[..., bytes]) -> Manifest:
    """A downloaded artifact of six rows, each bad in a known way or good."""

    def build(draft: Path) -> Outcome:
        images: dict[str, bytes] = {}
        with ShardWriter(draft, 4) as shards:
            for number, row in enumerate(ROWS):
                image = images.get(row.get("same_as", "")) or picture(row["width"], row["height"], number)
                images[row["key"]] = image
                common = {"url": f"http://a/{number}", "table_name": "t", "table_row": number, "licence": "CC0-1.0"}
                scores = {"similarity": None, "punsafe": None, "pwatermark": None}
                stored = {"sha256": content_hash(image), "bytes": len(image)}
                shards.write(common | scores | row | stored, image)
        return Outcome(rows_in=len(ROWS), rows_out=len(ROWS))

    return store.make("raw/t@1", "test", {}, [], build)


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> dict[str, FilterChain]:
    known = {"chain": CHAIN}
    monkeypatch.setattr(catalog, "filter_chain", known.__getitem__)
    return known


def test_every_row_is_kept_or_counted_under_the_first_rule_it_fails(
    store: Store, raw: Manifest, chains: dict[str, FilterChain]
) -> None:
    made = filter_source(store, "t", "chain", raw)
    assert made.artifact.startswith("filtered/t-chain@")
    assert [name.partition("@")[0] for name in made.parents] == ["raw/t", "described/t-web"]
    assert made.drops == {"min_side": 2, "aspect_ratio": 1, "duplicate_image": 1}
    assert (made.rows_in, made.rows_out) == (6, 2)
    dropped = pq.read_table(store.folder(made.artifact) / "dropped.parquet").to_pylist()
    reasons = {"c": "min_side", "e": "min_side", "d": "aspect_ratio", "a": "duplicate_image"}
    assert {row["key"]: row["reason"] for row in dropped} == reasons
    assert made.details["tables"] == {"other": {"in": 2, "kept": 1}, "t": {"in": 4, "kept": 1}}


def test_the_funnel_says_first_alone_and_only(store: Store, raw: Manifest, chains: dict[str, FilterChain]) -> None:
    funnel = filter_source(store, "t", "chain", raw).details["funnel"]
    counted = [
        (entry["rule"], entry["kind"], entry["dropped_first"], entry["dropped_alone"], entry["dropped_only"])
        for entry in funnel
    ]
    assert counted == [
        ("min_side", "rule", 2, 2, 0),
        ("aspect_ratio", "rule", 1, 2, 1),
        ("caption_words", "rule", 0, 1, 0),
        ("in_benchmark", "benchmark", 0, 0, 0),
        ("duplicate_image", "duplicates", 1, 1, 1),
    ]


def test_kept_images_are_the_raw_ones_and_the_better_duplicate_survives(
    store: Store, raw: Manifest, chains: dict[str, FilterChain]
) -> None:
    folder = store.folder(filter_source(store, "t", "chain", raw).artifact)
    before = {
        row["key"]: read_image(store.folder(raw.artifact), row) for row in sidecar_rows(store.folder(raw.artifact))
    }
    kept = {row["key"]: read_image(folder, row) for row in sidecar_rows(folder)}
    assert kept == {key: before[key] for key in ("b", "f")}


def test_the_gallery_shows_both_sides(store: Store, raw: Manifest, chains: dict[str, FilterChain]) -> None:
    gallery = store.folder(filter_source(store, "t", "chain", raw).artifact) / "gallery"
    index = json.loads((gallery / "index.json").read_text())
    reasons = {"min_side": 2, "aspect_ratio": 1, "duplicate_image": 1, None: 2}
    assert Counter(entry["reason"] for entry in index) == reasons
    for entry in index:
        with Image.open(io.BytesIO((gallery / entry["file"]).read_bytes())) as thumbnail:
            assert max(thumbnail.size) <= 128


def test_two_workdirs_get_the_same_bytes(
    store: Store, raw: Manifest, chains: dict[str, FilterChain], tmp_path: Path
) -> None:
    other = Store(str(tmp_path / "other"))
    (tmp_path / "other" / "raw").mkdir(parents=True)
    store.folder(raw.artifact).rename(other.local_root / raw.artifact)
    first_files = filter_source(other, "t", "chain", raw).files
    (other.local_root / raw.artifact).rename(store.local_root / raw.artifact)
    assert filter_source(store, "t", "chain", raw).files == first_files


def test_later_duplicate_steps_see_only_what_earlier_ones_left(
    store: Store, raw: Manifest, chains: dict[str, FilterChain]
) -> None:
    by_caption = Deduplicate(name="duplicate_caption", by="caption", why="same words")
    chains["chain"] = CHAIN.model_copy(update={"duplicates": [*CHAIN.duplicates, by_caption]})
    made = filter_source(store, "t", "chain", raw)
    assert made.drops == {"min_side": 2, "aspect_ratio": 1, "duplicate_image": 1}
    entry = made.details["funnel"][-1]
    assert (entry["dropped_first"], entry["dropped_alone"], entry["dropped_only"]) == (0, 1, 1)


def test_a_row_whose_predicate_is_null_is_dropped(store: Store, raw: Manifest, chains: dict[str, FilterChain]) -> None:
    rule = Rule(name="similarity", keep="similarity >= 0.28", why="scores are needed")
    chains["chain"] = FilterChain(about="test", rules=[rule])
    assert filter_source(store, "t", "chain", raw).drops == {"similarity": 4}


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("widht > 3", r"filters/chain\.yaml, size: .*widht.*\n.*The sidecar has key, url"),
        ("width +", r"filters/chain\.yaml, size: Parser Error"),
        ("width", r"`width` gives INTEGER, not true or false"),
        ("exists (FROM read_text('/etc/passwd'))", r"file system operations are disabled"),
    ],
)
def test_a_predicate_that_cannot_be_evaluated_is_refused_before_any_work(keep: str, message: str) -> None:
    chain = FilterChain(about="test", rules=[Rule(name="size", keep=keep, why="test")])
    with pytest.raises(DefinitionError, match=f"(?s){message}"):
        check_chain("chain", chain)


def test_an_empty_result_says_which_rules_dropped_everything(
    store: Store, raw: Manifest, chains: dict[str, FilterChain]
) -> None:
    chains["chain"] = FilterChain(about="test", rules=[Rule(name="huge", keep="width > 9000", why="test")])
    with pytest.raises(DataError, match=r"t-chain: nothing is left of 6 rows \(huge 6\)"):
        filter_source(store, "t", "chain", raw)
    assert store.names("filtered/") == []


def test_a_filter_that_drops_more_than_it_may_fails(
    store: Store, raw: Manifest, chains: dict[str, FilterChain]
) -> None:
    chains["chain"] = CHAIN.model_copy(update={"max_drop_fraction": 0.5})
    with pytest.raises(DataError, match=r"4 of 6 rows dropped .* more than max_drop_fraction 0\.5"):
        filter_source(store, "t", "chain", raw)


def test_near_copies_need_a_hash_of_64_bits() -> None:
    near = Deduplicate(name="near", by="sha256", within=4, why="test")
    with pytest.raises(DefinitionError, match=r"near: `sha256` gives VARCHAR; `within` needs a 64-bit hash"):
        check_chain("chain", FilterChain(about="test", rules=[], duplicates=[near]))


def test_what_a_benchmark_shows_is_left_out_and_said(
    store: Store, raw: Manifest, chains: dict[str, FilterChain], tmp_path: Path
) -> None:
    row = next(row for row in sidecar_rows(store.folder(raw.artifact)) if row["key"] == "f")
    (tmp_path / "f.jpg").write_bytes(read_image(store.folder(raw.artifact), row))
    statement = {"image": "f.jpg", "caption": "it is night", "label": 1, "relation": "at"}
    (tmp_path / "statements.jsonl").write_text(json.dumps(statement))
    benchmark = AnnotationsSource(
        kind="annotations",
        about="test",
        licence="CC0-1.0",
        format="vsr",
        files={"annotations": str(tmp_path / "statements.jsonl")},
        images=str(tmp_path),
    )
    made = filter_source(store, "t", "chain", raw, benchmarks={"streets": benchmark})
    assert made.drops == {"min_side": 2, "aspect_ratio": 1, "in_benchmark": 1, "duplicate_image": 1}
    assert made.details["in_benchmarks"] == {"bytes": 1, "look": 0, "words": 0}
    assert [name.partition("@")[0] for name in made.parents][1:] == ["described/t-web", "fingerprints/streets"]
    chains["chain"] = CHAIN.model_copy(update={"decontaminate": None})
    assert "in_benchmark" not in filter_source(store, "t", "chain", raw, benchmarks={"streets": benchmark}).drops


def test_what_an_earlier_snapshot_holds_is_not_kept_again(
    store: Store, raw: Manifest, chains: dict[str, FilterChain]
) -> None:
    first = filter_source(store, "t", "chain", raw)
    with pytest.raises(DataError, match=r"nothing is left of 6 rows \(duplicate_image 3, min_side 2, aspect_ratio 1\)"):
        filter_source(store, "t", "chain", raw, earlier=[first])


@pytest.mark.parametrize("name", catalog.names("filter"))
def test_every_chain_of_the_repository_can_be_evaluated(name: str) -> None:
    check_chain(name, catalog.filter_chain(name))


def test_a_filter_reads_and_writes_s3(
    s3_workdir: str, store: Store, raw: Manifest, chains: dict[str, FilterChain], picture: Callable[..., bytes]
) -> None:
    remote = Store(s3_workdir)
    shutil.copytree(
        store.folder(raw.artifact), remote.draft(raw.artifact), ignore=shutil.ignore_patterns("manifest.json")
    )
    moved = remote.make(raw.artifact, "test", {}, [], lambda _: Outcome(rows_in=6, rows_out=6))
    shutil.rmtree(remote.local_root)
    made = filter_source(remote, "t", "chain", moved)
    shutil.rmtree(remote.local_root)
    assert len(list(sidecar_rows(remote.folder(made.artifact)))) == made.rows_out == 2

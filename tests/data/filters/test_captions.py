"""Captions are cleaned with the original kept, and their language told where it can be."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tinygptv import catalog
from tinygptv.data.filters.captions import Describer, check_captions, describe
from tinygptv.data.shards.shards import ShardWriter, content_hash, sidecar_rows
from tinygptv.definitions.captions import Captions, Cleaning
from tinygptv.errors import DefinitionError
from tinygptv.store.artifacts import Outcome, Store


@pytest.fixture(scope="module")
def describer() -> Describer:
    return Describer(catalog.captions("web"))


@pytest.mark.parametrize(
    ("found", "cleaned"),
    [
        ("a red ball on grass", "a red ball on grass"),
        ("Finally Hip FH Baseball Team - A&#39;s &amp;amp; more", "Finally Hip FH Baseball Team - A's & more"),
        ("LP610 <font><b>Car</b></font> model<br />", "LP610 Car model"),
        ("see https://a.example/x?y=1 for a cat", "see for a cat"),
        ("Royalty Free Stock Photo of a cat", "a cat"),
        ("Portrait of a young couple — Stock Photo", "Portrait of a young couple"),
        ("Summer landscape at evening Royalty Free Stock Image", "Summer landscape at evening"),
        ("Slim fit wool suit | Our Shop", "Slim fit wool suit"),
        ("a dog !! *** so good ----", "a dog so good"),
        ("young woman 's hat , seen on the beach .", "young woman's hat, seen on the beach."),
        ("love #sunset on the #beach #87", "love sunset on the beach #87"),
        ("soft\u00adhyphen and zero\u200bwidth", "softhyphen and zerowidth"),
        ("cafe\u0301", "café"),
        ("two\nlines\0", "two lines"),
        ("Stock Photo", ""),
        ("cats &lt;3 dogs and 5 &gt; 3", "cats <3 dogs and 5 > 3"),
        ("I &amp;lt;3 you", "I <3 you"),
        ("x < y and y > z", "x < y and y > z"),
        ("a<b and c>d", "a<b and c>d"),
        ("a -> b", "a -> b"),
        ("<- here is a cat", "<- here is a cat"),
        ("<a<b>", "<a"),
        ("a &lt;b&gt;bold&lt;/b&gt; cat", "a bold cat"),
        ("a <!-- x > y --> cat", "a cat"),
        ("<img alt=\"a > b\" src='x'> cat", "cat"),
        ('a cat <img src="http', "a cat"),
        ("见https://a.example/x一只猫在睡觉", "见 一只猫在睡觉"),
    ],
)
def test_a_caption_is_cleaned(describer: Describer, found: str, cleaned: str) -> None:
    assert describer.cleaned(pa.array([found])).to_pylist() == [cleaned]


@pytest.mark.parametrize(
    ("caption", "language"),
    [
        ("a red ball on the grass", "en"),
        ("Celadon Quatrefoil Water Bottle", None),
        ("Ein roter Ball auf dem Rasen", "de"),
        ("Le ballon rouge dans le jardin avec les enfants", "fr"),
        ("una pelota roja en el jardín con los niños", "es"),
        ("красный мяч на траве", "Cyrl"),
        ("草地上的红球", "Hani"),
        ("芝生の上の赤いボール", "ja"),
        ("잔디 위의 빨간 공", "ko"),
        ("Tokyo tower (東京) at night", "en"),
        ("IMG 0042", None),
        ("ஜன்னல் அருகே தூங்கும் பூனை", "ta"),
        ("ဘေးမှာ အိပ်နေတဲ့ ကြောင်", "Mymr"),
        ("ᎠᏓᏪᎳᎩᏍᎩ ᎣᎭᏂ", "Zzzz"),
        ("𝐁𝐨𝐥𝐝 letters of 𝐦𝐚𝐭𝐡", "en"),
    ],
)
def test_a_language_is_told_by_script_and_frequent_words(
    describer: Describer, caption: str, language: str | None
) -> None:
    assert describer.language(pa.array([caption])).to_pylist() == [language]


def test_real_english_is_not_taken_for_another_language(describer: Describer, shared: Path) -> None:
    lines = (shared / "data/tables/cc3m/Validation_GCC-1.1.0-Validation.tsv").read_text().splitlines()
    captions = describer.cleaned(pa.array([line.split("\t")[0] for line in lines]))
    told = Counter(describer.language(captions).to_pylist())
    assert set(told) == {"en", None}
    assert told["en"] > 0.98 * len(lines)


def test_describing_keeps_rows_and_originals(store: Store, picture: Callable[..., bytes]) -> None:
    image = picture(40, 30)

    def build(draft: Path) -> Outcome:
        with ShardWriter(draft, 10) as shards:
            for key, caption in (("a", "Stock photo of the cat"), ("b", "the dog")):
                row = {"key": key, "caption": caption, "caption_raw": f" {caption}\n", "sha256": content_hash(image)}
                shards.write(row, image)
        return Outcome(rows_in=2, rows_out=2)

    raw = store.make("raw/t@1", "test", {}, [], build)
    described = describe(store, "t", "web", raw)
    before, after = (list(sidecar_rows(store.folder(made.artifact))) for made in (raw, described))
    assert [row["caption"] for row in after] == ["the cat", "the dog"]
    assert {row["language"] for row in after} == {"en"}
    unchanged = [name for name in before[0] if name not in ("caption", "language")]
    assert [[row[name] for name in unchanged] for row in after] == [[row[name] for name in unchanged] for row in before]


def test_an_expression_that_is_none_is_refused_by_name() -> None:
    captions = Captions(about="test", clean=[Cleaning(name="broken", find="(", replace="", why="test")])
    with pytest.raises(DefinitionError, match=r"captions/mine\.yaml, broken: .*missing \)"):
        check_captions("mine", captions)


@pytest.mark.parametrize("name", catalog.names("captions"))
def test_every_cleaning_of_the_repository_can_be_done(name: str) -> None:
    check_captions(name, catalog.captions(name))

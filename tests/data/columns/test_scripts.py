"""The shipped rules mean the same in every script: sentences stay, junk goes, and Latin text is judged as ever."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.data.judged import dropped, opened, write_rows
from tinygptv import catalog
from tinygptv.data.filters.captions import Describer
from tinygptv.data.filters.rule_attribution import judge
from tinygptv.definitions.filters import FilterChain

SENTENCES = {
    "Latin": "an orange cat asleep by the window",
    "Vietnamese, decomposed": "con me\u0300o ma\u0300u cam \u0111ang ngu\u0309 be\u0302n cu\u031b\u0309a",
    "Cyrillic": "рыжий кот спит у окна",
    "Greek": "μια πορτοκαλί γάτα κοιμάται δίπλα στο παράθυρο",
    "Armenian": "նարնջագույն կատուն քնած է պատուհանի մոտ",
    "Georgian": "ნარინჯისფერ კატას ფანჯარასთან სძინავს",
    "Hebrew, pointed": "חָתוּל כָּתֹם יָשֵׁן עַל אֶדֶן הַחַלּוֹן",
    "Arabic, pointed": "قِطٌّ بُرْتُقَالِيٌّ نَائِمٌ بِجَانِبِ النَّافِذَةِ",
    "Persian, with joiners": "گربه نارنجی کنار پنجره می\u200cخوابد",
    "Urdu": "کھڑکی کے پاس سوئی ہوئی نارنجی بلی",
    "Devanagari": "खिड़की पर सो रही नारंगी बिल्ली की तस्वीर",
    "Bengali": "জানালার পাশে ঘুমন্ত কমলা বিড়াল",
    "Gurmukhi": "ਖਿੜਕੀ ਕੋਲ ਸੁੱਤੀ ਸੰਤਰੀ ਬਿੱਲੀ",
    "Gujarati": "બારી પાસે સૂતી નારંગી બિલાડી",
    "Tamil": "ஜன்னல் அருகே தூங்கும் ஆரஞ்சு பூனை",
    "Telugu": "కిటికీ పక్కన నిద్రిస్తున్న నారింజ పిల్లి",
    "Kannada": "ಕಿಟಕಿಯ ಬಳಿ ಮಲಗಿರುವ ಕಿತ್ತಳೆ ಬೆಕ್ಕು",
    "Malayalam": "ജനാലയ്ക്കരികിൽ ഉറങ്ങുന്ന ഓറഞ്ച് പൂച്ച",
    "Sinhala": "ජනේලය ළඟ නිදාගෙන සිටින තැඹිලි පූසා",
    "Ethiopic": "ብርቱካናማ ድመት በመስኮቱ አጠገብ ተኝታለች",
    "Ethiopic, with word spaces": "ብርቱካናማ፡ድመት፡በመስኮቱ፡አጠገብ፡ተኝታለች",
    "Korean": "창가에 누워 잠자는 주황색 고양이",
    "Chinese": "一只橘猫躺在洒满阳光的窗台上睡觉",
    "Chinese, traditional": "一隻橘貓躺在灑滿陽光的窗臺上睡覺",
    "Chinese, five characters": "雪山小木屋",
    "Japanese": "公園のベンチに座って本を読んでいる女性",
    "Japanese, katakana": "テーブルの上のコーヒーカップ",
    "Thai": "แมวสีส้มนอนหลับอยู่บนขอบหน้าต่าง",
    "Lao": "ແມວສີສົ້ມນອນຢູ່ຂອບປ່ອງຢ້ຽມ",
    "Khmer": "ឆ្មាពណ៌ទឹកក្រូចដេកលក់នៅក្បែរបង្អួច",
    "Burmese": "ပြတင်းပေါက်ဘေးမှာ အိပ်နေတဲ့ ကြောင်လေး တစ်ကောင်",
    "Tibetan": "བྱི་ལ་དམར་སེར་ཞིག་སྒེའུ་ཁུང་གི་ཁར་ཉལ་འདུག",
}
UNSPACED = ("Chinese", "Chinese, traditional", "Japanese", "Japanese, katakana", "Thai", "Lao", "Khmer", "Burmese")
JUNK = {
    "屋": "short_caption",
    "橘猫": "short_caption",
    "雪山小屋": "caption_words",
    "高清图片": "caption_words",
    "カメラ": "caption_words",
    "แมว": "short_caption",
    "이미지 파일": "caption_words",
    "фотография товара": "caption_words",
    "तस्वीर": "caption_words",
    "བྱི་ལ་": "caption_words",
    "ብርቱካናማ፡ድመት": "caption_words",
    "货号 2023-0815-4471 99元": "caption_letters",
    "型号 １２３４５６７８９０ ＡＢ ９９元": "caption_letters",
    "🐱 🐶 🐭 👨\u200d👩\u200d👧": "caption_letters",
    "1\ufe0f\u20e3 2\ufe0f\u20e3 3\ufe0f\u20e3": "caption_letters",
    "红色连衣裙" * 12: "repetition",
    "かわいい猫の写真" * 12: "repetition",
    "แมวสีส้มนอนหลับ" * 12: "repetition",
    "ခွေးလေးပုံ " * 14: "repetition",
    "рыжий кот " * 14: "repetition",
    "一只橘猫躺在洒满阳光的窗台上睡觉，" * 70: "long_caption",
    "屏幕截图 2023年1月5日下午的会议记录": "file_name",
    "スクリーンショット 2021-03-04 会議の資料です": "file_name",
    "Снимок экрана 2021 года с рабочего стола": "file_name",
    "我家可爱的猫咪照片集.jpg": "file_name",
    "我家可爱的猫咪照片集．ＪＰＧ": "file_name",
    "本站图片版权所有，请勿转载": "boilerplate",
    "この商品の画像はありません": "boilerplate",
    "все права защищены, копирование запрещено": "boilerplate",
    "جميع الحقوق محفوظة لدى الموقع": "boilerplate",
    "이 상품은 이미지가 없습니다": "boilerplate",
    "ไม่มีภาพสำหรับสินค้านี้": "boilerplate",
}


@pytest.fixture(scope="module")
def describer() -> Describer:
    return Describer(catalog.captions("web"))


def described(describer: Describer, captions: list[str]) -> list[dict[str, Any]]:
    cleaned = describer.cleaned(pa.array(captions))
    told = zip(cleaned.to_pylist(), describer.language(cleaned).to_pylist(), strict=True)
    return [{"caption": caption, "language": language, "width": 400, "height": 400} for caption, language in told]


def rules_of(name: str) -> FilterChain:
    """The rules of a shipped chain, and its copies of captions; there are no pictures here."""
    chain = catalog.filter_chain(name)
    copies = [step for step in chain.duplicates if "caption" in step.by]
    others: dict[str, Any] = {"placeholders": [], "decontaminate": None, "balance": None}
    return chain.model_copy(update={"duplicates": copies, **others})


@pytest.mark.parametrize("name", catalog.names("filter"))
def test_a_sentence_passes_every_shipped_rule_in_every_script(describer: Describer, tmp_path: Path, name: str) -> None:
    rows = described(describer, list(SENTENCES.values()))
    gone = dropped(write_rows(tmp_path / "rows", rows), rules_of(name))
    languages = list(SENTENCES)
    if name == "laion_pairs":
        assert {languages[row] for row in gone} == {*languages} - {"Latin", "Vietnamese, decomposed"}
        assert {*gone.values()} == {"english"}
    else:
        assert {languages[row]: reason for row, reason in gone.items()} == {}


@pytest.mark.parametrize("name", ["web_pairs", "laion_pairs"])
def test_junk_is_dropped_in_every_script_for_its_own_reason(describer: Describer, tmp_path: Path, name: str) -> None:
    folder = write_rows(tmp_path / "rows", described(describer, list(JUNK)))
    gone = dropped(folder, rules_of(name))
    found = {caption: gone.get(row) for row, caption in enumerate(JUNK)}
    assert {caption: reason for caption, reason in found.items() if reason != JUNK[caption]} == {}


def test_words_are_counted_alike_with_and_without_spaces(tmp_path: Path) -> None:
    rows = [{"caption": caption} for caption in (*SENTENCES.values(), "一只 橘猫 睡觉", "Nike 运动鞋 2023")]
    with opened(write_rows(tmp_path / "rows", rows)) as sidecar:
        query = "SELECT caption, word_count(caption) FROM rows ORDER BY position"
        counts = dict(sidecar.database.sql(query).fetchall())
    assert {name: counts[SENTENCES[name]] for name in UNSPACED} == {
        "Chinese": 8,
        "Chinese, traditional": 8,
        "Japanese": 10,
        "Japanese, katakana": 7,
        "Thai": 13,
        "Lao": 10,
        "Khmer": 11,
        "Burmese": 9,
    }
    assert counts["一只 橘猫 睡觉"] == 3
    assert counts["Nike 运动鞋 2023"] == 3
    assert counts[SENTENCES["Tibetan"]] == 11
    assert counts[SENTENCES["Ethiopic, with word spaces"]] == counts[SENTENCES["Ethiopic"]] == 5


def test_captions_that_differ_in_points_joiners_and_width_are_copies(tmp_path: Path) -> None:
    pairs = [
        ("חָתוּל כָּתֹם יָשֵׁן", "חתול כתום ישן"),
        ("قِطٌّ نَائِمٌ", "قط نائم"),
        ("گربه می\u200cخوابد", "گربه میخوابد"),
        ("ＮＩＫＥ 运动鞋", "nike 运动鞋"),
        ("Été", "été"),
    ]
    rows = [{"caption": caption} for pair in pairs for caption in pair] + [{"caption": "ete"}]
    gone = dropped(write_rows(tmp_path / "rows", rows), rules_of("laion_pairs").model_copy(update={"rules": []}))
    # Full vowel spelling adds letters to the Hebrew one, which no folding takes away.
    assert {*gone} == {3, 5, 7, 9}


def test_latin_captions_are_judged_as_plain_sql_judges_them(shared: Path, tmp_path: Path) -> None:
    lines = (shared / "data/tables/cc3m/Validation_GCC-1.1.0-Validation.tsv").read_text().splitlines()
    captions = [line.split("\t")[0] for line in lines[:3000]]
    captions += ["a – b", "naïve café", " ".join(["Ünique"] * 12), "£12 — €30 · 50 %", "x" * 1001, "Crème"]
    plain = [
        "len(string_split(caption, ' ')) = word_count(caption)",
        "length(caption) = text_length(caption)",
        r"length(regexp_replace(caption, '[^\p{L}\s]', '', 'g')) / length(caption) = letter_share(caption)",
        "len(list_distinct(string_split(lower(caption), ' '))) / len(string_split(caption, ' '))"
        " = word_variety(caption)",
        "lower(caption) = folded(caption)",
    ]
    with opened(write_rows(tmp_path / "rows", [{"caption": caption} for caption in captions])) as sidecar:
        for same in plain:
            assert sidecar.database.sql(f"SELECT caption FROM rows WHERE NOT ({same})").fetchall() == []


def test_a_caption_without_letters_or_without_text_breaks_no_rule(tmp_path: Path) -> None:
    rows = [{"caption": caption, "width": 400, "height": 400} for caption in ("", "་", "。", "\u0301", " ")]
    with opened(write_rows(tmp_path / "rows", rows)) as sidecar:
        judgement = judge(sidecar, rules_of("web_pairs"))
    assert judgement.verdicts.tolist() == [3] * 5, "short_caption"

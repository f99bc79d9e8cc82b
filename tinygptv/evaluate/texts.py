"""Texts as scores compare them: one spelling of what Unicode lets be written in several ways, in any script.

For ASCII all of this is `str.lower`, so scores of English stay what the published evaluators give.
"""

import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

from tinygptv.data.columns.scripts import POINTS, SEPARATORS, UNSPACED

_LETTER = UNSPACED + r"\p{M}*"
_INVISIBLE = r"[\p{Cf}\x{034F}\x{FE00}-\x{FE0F}]"
"""RE2: joiners, marks of direction, soft hyphens; the combining joiner, and selectors of how a sign is drawn."""

_PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("\u3002\u0964\u06d4\u1362\u066b", "."),
        **dict.fromkeys("\u3001\u060c\u1363\u066c", ","),
        **dict.fromkeys("\u061b\u1364", ";"),
        **dict.fromkeys("\u061f\u1367", "?"),
        **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb\u300a\u300b\u300c\u300d\u300e\u300f", '"'),
        **dict.fromkeys("\u2018\u2019\u02bc", "'"),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014", "-"),
    }
)
"""Stops, commas, question marks, quotes and dashes of other scripts and of typography, as evaluators know them."""


def folded(text: str) -> str:
    """In compatibility form (NFKC) and without case, with decimal digits as 0 to 9; without what is not seen, and
    without the vowel points and stretching lines that Hebrew and Arabic are also written without."""
    if text.isascii():
        return text.lower()
    plain = _nfkc(_nfkc(_without(text, _INVISIBLE)).casefold())
    plain = _nfkc(_without(plain, POINTS).replace("i\u0307", "i"))  # a Turkish I leaves its point behind
    return "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in plain)


def comparable(text: str) -> str:
    """An answer, folded, with the punctuation that evaluators of English know."""
    return folded(text).translate(_PUNCTUATION)


def words_apart(text: str) -> str:
    """Folded, with blanks around every letter of scripts that put none between words, and in place of their marks
    between words or syllables: what a tokenizer of English then takes for words."""
    plain = folded(text)
    if plain.isascii():
        return plain
    spaced = plain.translate(dict.fromkeys(map(ord, SEPARATORS), " "))
    return str(pc.replace_substring_regex(pa.scalar(spaced), _LETTER, r" \0 "))


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _without(text: str, pattern: str) -> str:
    return str(pc.replace_substring_regex(pa.scalar(text), pattern, ""))

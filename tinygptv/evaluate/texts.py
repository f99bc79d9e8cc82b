"""Unicode normalisation for scoring: one spelling for texts that Unicode can write in several ways, in any script.

For ASCII this is just `str.lower`, so scores of English match the published evaluators.
"""

import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

from tinygptv.data.columns.scripts import POINTS, SEPARATORS, UNSPACED

_LETTER = UNSPACED + r"\p{M}*"
_INVISIBLE = r"[\p{Cf}\x{034F}\x{FE00}-\x{FE0F}]"
"""RE2: joiners, direction marks, soft hyphens, the combining grapheme joiner and variation selectors."""

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
"""Full stops, commas, question marks, quotes and dashes of other scripts and of typography → ASCII."""


def folded(text: str) -> str:
    """Normalise a text: NFKC, case folding and decimal digits as 0 to 9.

    Invisible characters are removed, and so are the optional vowel points and elongations of Hebrew and Arabic.
    """
    if text.isascii():
        return text.lower()
    plain = _nfkc(_nfkc(_without(text, _INVISIBLE)).casefold())
    plain = _nfkc(_without(plain, POINTS).replace("i\u0307", "i"))  # the dot that case folding leaves of a Turkish İ
    return "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in plain)


def comparable(text: str) -> str:
    """A folded answer with ASCII punctuation, as evaluators of English expect."""
    return folded(text).translate(_PUNCTUATION)


def words_apart(text: str) -> str:
    """A folded text that tokenizers for English can split into words.

    Letters of scripts without spaces between words are surrounded by spaces; word and syllable separators of other
    scripts are replaced by spaces.
    """
    plain = folded(text)
    if plain.isascii():
        return plain
    spaced = plain.translate(dict.fromkeys(map(ord, SEPARATORS), " "))
    return str(pc.replace_substring_regex(pa.scalar(spaced), _LETTER, r" \0 "))


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _without(text: str, pattern: str) -> str:
    return str(pc.replace_substring_regex(pa.scalar(text), pattern, ""))

"""Words, letters and lengths of captions in any script: character classes, and the SQL macros that filters share.

Chinese, Japanese, Thai, Lao, Khmer and Burmese put no spaces between words, Tibetan and older Ethiopic text puts a mark
there. A rule that splits at spaces takes such a sentence for one word. For text in scripts that use spaces every macro
gives what the plain SQL beside it gives:

- `word_count(caption)`: `len(string_split(caption, ' '))`, or half of the letters of scripts without spaces if more;
- `word_variety(caption)`: the share of different words among all, in lower case, pairs of letters counting as words;
- `letter_share(caption)`: the share of letters, with their marks, and spaces among all characters;
- `text_length(caption)`: `length(caption)`, Chinese, Japanese and Korean characters counting twice;
- `folded(caption)`: `lower(caption)`, full-width forms as ordinary ones, without vowel points and joiners.
"""

LETTERS_PER_WORD = 2
"""Letters that count as one word where words are not separated: about the length of a Chinese word."""

UNSPACED = (
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\x{30FC}\x{FF70}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}]"
)
"""RE2: letters of scripts without spaces, with their marks. The long vowel sign of kana belongs to no script."""

SEPARATORS = "\u0f0b\u0f0c\u1361"
"""The tsheg of Tibetan, also where no line may break, and the word space of Ethiopic."""

_WIDE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}\p{Yi}\x{30FC}\x{FF70}]"
"""RE2: characters that stand for a syllable or a word, and so for two letters or more."""

POINTS = (
    r"[\x{0591}-\x{05BD}\x{05BF}-\x{05C7}\x{0610}-\x{061A}\x{0640}\x{064B}-\x{065F}\x{0670}"
    r"\x{200B}-\x{200D}\x{2060}]"
)
"""RE2: vowel points of Hebrew and Arabic, the Arabic stretching line, joiners: the same words are written without."""

_FULL_WIDTH = "".join(chr(code) for code in range(0xFF01, 0xFF5F))
_HALF_WIDTH = "".join(chr(code) for code in range(0x21, 0x7F)).replace("'", "''")

TEXT_MACROS_VERSION = 1
"""Part of what names a filtered artifact: raise it when macros, or words of captions, become others."""

TEXT_MACROS = rf"""
CREATE MACRO is_ascii(content) AS strlen(content) = length(content);

CREATE MACRO unspaced_letters(content) AS
    length(regexp_replace(regexp_replace(content, '\p{{M}}+', '', 'g'), '[^{UNSPACED[1:-1]}]+', '', 'g'));

CREATE MACRO with_spaces(content) AS
    regexp_replace(rtrim(content, '{SEPARATORS}'), '[{SEPARATORS}]+', ' ', 'g');

CREATE MACRO word_count(content) AS CASE
    WHEN is_ascii(content) THEN len(string_split(content, ' '))
    ELSE greatest(
        len(string_split(with_spaces(content), ' ')),
        (unspaced_letters(content) + {LETTERS_PER_WORD - 1}) // {LETTERS_PER_WORD})
    END;

CREATE MACRO word_list(content) AS CASE
    WHEN is_ascii(content) THEN string_split(lower(content), ' ')
    WHEN NOT regexp_matches(content, '{UNSPACED}') THEN string_split(with_spaces(lower(content)), ' ')
    ELSE regexp_split_to_array(trim(regexp_replace(with_spaces(lower(content)),
        '[\s\p{{P}}]*((?:{UNSPACED}\p{{M}}*){{1,{LETTERS_PER_WORD}}})[\s\p{{P}}]*', ' \1 ', 'g')), ' +')
    END;

CREATE MACRO word_variety(content) AS len(list_distinct(word_list(content))) / len(word_list(content));

CREATE MACRO letter_share(content) AS
    length(regexp_replace(content, '[^\p{{L}}\p{{M}}\s]\p{{M}}*', '', 'g')) / length(content);

CREATE MACRO text_length(content) AS CASE
    WHEN is_ascii(content) THEN length(content)
    ELSE length(content) + length(regexp_replace(content, '[^{_WIDE[1:-1]}]+', '', 'g'))
    END;

CREATE MACRO folded(content) AS CASE
    WHEN is_ascii(content) OR NOT regexp_matches(content, '[\x{{FF01}}-\x{{FF5E}}{POINTS[1:-1]}]') THEN lower(content)
    ELSE regexp_replace(lower(translate(content, '{_FULL_WIDTH}', '{_HALF_WIDTH}')), '{POINTS}', '', 'g')
    END;
"""

"""How table texts are cleaned into captions, and the words that identify their language."""

from pydantic import Field, field_validator

from tinygptv.definitions.base import Definition


class Cleaning(Definition):
    """Every match of `find` (a regular expression, RE2) is replaced by `replace`; `\\1` is the first group."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    find: str = Field(min_length=1)
    replace: str
    why: str = Field(min_length=1)


class Captions(Definition):
    """`clean` lists the cleaning steps in order; `languages` maps an ISO 639-1 code to frequent words of the language.

    Words are separated by spaces. The first language is the default: one matching word identifies it, others need two.
    """

    about: str
    clean: list[Cleaning]
    languages: dict[str, str] = Field(default_factory=dict)

    @field_validator("languages")
    @classmethod
    def _codes_are_two_letters(cls, languages: dict[str, str]) -> dict[str, str]:
        if wrong := sorted(code for code in languages if len(code) != 2):
            raise ValueError(f"{', '.join(wrong)}: expected two-letter ISO 639-1 language codes, such as `en`")
        return languages

"""How the texts of a table become captions, and by which words their language is told."""

from pydantic import Field, field_validator

from tinygptv.definitions.base import Definition


class Cleaning(Definition):
    """Wherever `find` (a regular expression, RE2) matches, `replace` takes its place; `\\1` is its first group."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    find: str = Field(min_length=1)
    replace: str
    why: str = Field(min_length=1)


class Captions(Definition):
    """Cleaning steps in order; ISO 639-1 code → frequent words of that language, separated by spaces.

    The first language is the one that is expected: one word of it is enough, another needs two.
    """

    about: str
    clean: list[Cleaning]
    languages: dict[str, str] = Field(default_factory=dict)

    @field_validator("languages")
    @classmethod
    def _codes_are_two_letters(cls, languages: dict[str, str]) -> dict[str, str]:
        if wrong := sorted(code for code in languages if len(code) != 2):
            raise ValueError(f"{', '.join(wrong)}: a language is named by its two letters in ISO 639-1, as `en`")
        return languages

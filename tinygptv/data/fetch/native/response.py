"""The head of an HTTP response, line by line as libcurl hands it on. Pure."""

import re
from dataclasses import dataclass, field

_STATUS_LINE = re.compile(rb"HTTP/(\d(?:\.\d)?)\s+(\d{3})(?!\d)", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")
_BODILESS = frozenset({204, 205, 304})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
NOT_MODIFIED = 304


class Fields:
    """Header fields in their order; names are looked up without regard to case."""

    def __init__(self) -> None:
        self._fields: list[tuple[str, str]] = []
        self._spaced: set[str] = set()

    def add(self, line: str) -> None:
        """A line of a head; one that begins with white space goes on with the field before."""
        if line[:1] in (" ", "\t"):
            if self._fields:
                name, value = self._fields[-1]
                self._fields[-1] = name, f"{value} {line.strip()}"
            return
        name, colon, value = line.partition(":")
        if colon:
            if name != name.rstrip():
                self._spaced.add(name.strip().lower())
            self._fields.append((name.strip().lower(), value.strip()))

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value under a name."""
        return next((value for known, value in self._fields if known == name.lower()), default)

    def get_all(self, name: str) -> list[str]:
        """Every value under a name."""
        return [value for known, value in self._fields if known == name.lower()]

    def is_spaced(self, name: str) -> bool:
        """Whether a field of that name came with white space before its colon."""
        return name.lower() in self._spaced

    def items_of(self, name: str) -> list[str]:
        """The items of all lists under a name, in lower case."""
        listed = [item.strip().lower() for value in self.get_all(name) for item in value.split(",")]
        return [item for item in listed if item]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response without failure: a whole body (status 200), a redirect, or 304 Not Modified."""

    status: int
    headers: Fields
    body: bytes


@dataclass(slots=True)
class Head:
    """A response's status and header fields; lines are added until it is complete."""

    status: int = 0
    version: str = ""
    fields: Fields = field(default_factory=Fields)
    is_complete: bool = False

    def add(self, line: bytes) -> bool:
        """Take in a line; whether it was the last one. A status line begins anew."""
        if found := _STATUS_LINE.match(line):
            self.version, self.status = found[1].decode(), int(found[2])
            self.fields, self.is_complete = Fields(), False
        elif line.strip(b"\r\n"):
            self.fields.add(line.decode("latin-1").rstrip("\r\n"))
        else:
            self.is_complete = True
        return self.is_complete

    @property
    def is_interim(self) -> bool:
        """Whether the answer itself is still to come (1xx). After 101 there is none: the protocol has changed."""
        return 100 <= self.status < 200 and self.status != 101

    @property
    def length(self) -> int | None:
        """The length that is declared, in bytes, if all declarations agree and no transfer coding takes its place."""
        if set(self.fields.items_of("Transfer-Encoding")) - {"identity"}:
            return None
        declared = set(self.fields.items_of("Content-Length"))
        (only,) = declared if len(declared) == 1 else ("",)
        return int(only) if _DIGITS.fullmatch(only) else None

    @property
    def is_counted_by_us(self) -> bool:
        """Whether libcurl overlooks the declared length and would wait for the connection to close: it takes the
        obsolete transfer coding `identity` for one, and `Content-Length :` for another field."""
        is_overlooked = self.fields.get_all("Transfer-Encoding") or self.fields.is_spaced("Content-Length")
        return bool(is_overlooked) and self.length is not None

    @property
    def ends_where_it_says(self) -> bool:
        """Whether the end of the answer can be told without closing the connection."""
        if self.version.startswith(("2", "3")):
            return True
        is_chunked = self.fields.items_of("Transfer-Encoding")[-1:] == ["chunked"]
        return self.status not in _BODILESS and (is_chunked or self.length is not None)

"""JSON read item by item: BLIP's CapFilt list of LAION has 115 million items and does not fit in memory."""

import json
from collections.abc import Iterator
from typing import IO, Any

from tinygptv.errors import DataError

_CHUNK = 1 << 20
_LONGEST_ITEM = 1 << 24
_SPACE = " \t\r\n"


def array_items(stream: IO[str], path: str) -> Iterator[Any]:
    """The items of the array in `stream`; `path` is for messages. Raises DataError where the text is not JSON."""
    return JsonScanner(stream, path).items("[…]")


def member_items(stream: IO[str], path: str, key: str) -> Iterator[Any]:
    """The items of the array under `key` of the object in `stream`; what stands before it is skipped as it is read.

    Raises DataError where the text is not JSON, or at its end if there is no such array.
    """
    scanner = JsonScanner(stream, path)
    seen = []
    for name in scanner.names():
        seen.append(name)
        if name == key:
            yield from scanner.items(f"{key}: […]")
            return
        scanner.skip()
    raise DataError(
        f"{path}: expected a list '{key}'; found {', '.join(seen) or 'nothing'}. "
        "One object is read as SBU's parallel lists; write records in an array, or one per line"
    )


class JsonScanner:
    """A window that slides over the text; values are whole in it when they are decoded. Raises DataError."""

    def __init__(self, stream: IO[str], path: str, decoder: json.JSONDecoder | None = None) -> None:
        self._stream, self._path = stream, path
        self._text, self._position, self._values = stream.read(_CHUNK).removeprefix("\ufeff"), 0, 0
        self._decoder = decoder or json.JSONDecoder()

    def items(self, what: str) -> Iterator[Any]:
        """The items of the array that begins here."""
        self.expect("[", what)
        while not self.accept("]"):
            self.accept(",")
            yield self.value()

    def names(self) -> Iterator[str]:
        """The names in the object that begins here; whoever asks reads or skips the value behind each."""
        self.expect("{", "an object")
        while not self.accept("}"):
            self.accept(",")
            name = self.value()
            self.expect(":", "a colon")
            yield str(name)

    def skip(self) -> None:
        """Pass over one value; an array item by item, so that its length does not matter."""
        if self._next() == "[":
            for _ in self.items("an array"):
                pass
        else:
            self.value()

    def end(self) -> None:
        """Nothing more may come."""
        if self._next():
            found = self._text[self._position : self._position + 40]
            raise DataError(f"{self._path}: expected the end of the file after value {self._values}, found {found!r}")

    def accept(self, sign: str) -> bool:
        """Whether `sign` comes next; if so, pass over it."""
        found = self._next() == sign
        self._position += found
        return found

    def expect(self, sign: str, what: str) -> None:
        """Pass over `sign`."""
        if not self.accept(sign):
            found = self._text[self._position : self._position + 40]
            raise DataError(f"{self._path}: expected {what}, found {found!r}")

    def value(self) -> Any:
        """One value, whole."""
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except RecursionError as error:
                raise DataError(f"{self._path}: nested too deeply after value {self._values}") from error
            except ValueError as error:
                if len(self._text) - self._position > _LONGEST_ITEM or not self._more():
                    message = f"{self._path}: not valid JSON after value {self._values}: {error}"
                    raise DataError(message) from error
                continue
            # A number at the end of the window may go on in the next one.
            if end < len(self._text) or not self._more():
                self._position, self._values = end, self._values + 1
                return value

    def _next(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._position < len(self._text) and self._text[self._position] in _SPACE:
                self._position += 1
            if self._position < len(self._text) or not self._more():
                return self._text[self._position : self._position + 1]

    def _more(self) -> bool:
        """Slide on; False at the end of the text."""
        more = self._stream.read(_CHUNK)
        self._text, self._position = self._text[self._position :] + more, 0
        return bool(more)

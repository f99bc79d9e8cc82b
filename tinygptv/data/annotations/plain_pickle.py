"""Read pickles of plain values without executing anything: RefCOCO is published as a pickle, and a pickle is a program.

This module, not Python's loader, interprets only the opcodes that build dicts, lists, tuples, strings, numbers,
booleans and None. A file with an opcode that imports or calls anything is rejected.
"""

import pickletools
from pathlib import Path
from typing import Any

from tinygptv.errors import DataError

_INTEGERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_VALUES = frozenset((*_INTEGERS, *_TEXTS, "FLOAT", "BINFLOAT"))
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = frozenset(("PROTO", "FRAME"))


def read_plain_pickle(path: Path) -> Any:
    """The value in a pickle of any protocol. Raises DataError if it is damaged, or contains more than plain values."""
    builder = _Builder()
    try:
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            if opcode.name == "STOP":
                return builder.stack.pop()
            builder.follow(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a pickle of plain values ({error}); nothing in it was executed. If you trust the file, "
            "convert it to JSON and use that"
        ) from error
    raise DataError(f"{path}: the pickle is truncated; fetch the file again")


class _Builder:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            self._marks.append(stack)
            self.stack = []
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name not in _NOTHING:
            self._close(name)

    def _close(self, name: str) -> None:
        """Execute an opcode that takes everything since the last mark."""
        if name not in ("APPENDS", "SETITEMS", "DICT", "LIST", "TUPLE"):
            raise ValueError(f"opcode {name} is not allowed")
        items, self.stack = self.stack, self._marks.pop()
        pairs = zip(items[::2], items[1::2], strict=False)
        if name == "APPENDS":
            self.stack[-1].extend(items)
        elif name == "SETITEMS":
            self.stack[-1].update(pairs)
        elif name == "DICT":
            self.stack.append(dict(pairs))
        else:
            self.stack.append(items if name == "LIST" else tuple(items))

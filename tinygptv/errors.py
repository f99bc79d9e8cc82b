"""Every error a user can meet, as one tree.

    TinyGPTVError
    ├── DefinitionError     a YAML file, a parameter or a reference in it is wrong; nothing has started
    │   └── UnknownNameError    a name in it means nothing
    ├── DataError           data on disk or from the web cannot be used
    │   ├── StorageError    it cannot be read or written: full disk, no permission, unreachable bucket
    │   └── PromptTooLongError  a prompt leaves the decoder no position to answer in
    ├── ShapeError          tensors do not fit together
    ├── HandoffError        a checkpoint is not what the next stage starts from
    ├── LaunchError         a process could not be started, or ended badly
    ├── TrainingError       training cannot go on: the loss is no longer a number
    ├── GateError           a trained stage falls short of what its gate wants before the next one
    └── SetupError          this machine or environment cannot run what was asked for

A message says where (file, field), what was found, why it matters and what to do.
"""

import difflib
from collections.abc import Iterable


class TinyGPTVError(Exception):
    """Base of all errors meant for users; the CLI prints its message without a traceback."""


class DefinitionError(TinyGPTVError):
    """A definition or parameter is wrong; raised before any work starts."""


class UnknownNameError(DefinitionError, ValueError):
    """A definition names what does not exist. A ValueError too, so that a schema may raise it and add the field."""

    def __init__(self, message: str, found: str) -> None:
        super().__init__(message)
        self.found = found


class DataError(TinyGPTVError):
    """Data that was found cannot be used."""


class StorageError(DataError):
    """Data cannot be read or written where it was asked for."""


class PromptTooLongError(DataError):
    """A prompt leaves the decoder no position to answer in."""


class ShapeError(TinyGPTVError):
    """Two tensors, or a tensor and a definition, disagree about shape."""


class HandoffError(TinyGPTVError):
    """A checkpoint is missing, damaged, or made by something else than what the stage starts from."""


class LaunchError(TinyGPTVError):
    """A process could not be started or ended badly."""


class TrainingError(TinyGPTVError):
    """Training cannot go on, although every process and every file is in order."""


class GateError(TinyGPTVError):
    """A trained stage falls short of its gate, so the next one is not begun."""


class SetupError(TinyGPTVError):
    """This machine or environment cannot run what was asked for."""


def closest(found: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `found`, upper or lower case aside; None if none is like it."""
    names = {name.casefold(): name for name in sorted(known)}
    shuffled = [name for name in names if sorted(name) == sorted(found.casefold())]
    close = shuffled or difflib.get_close_matches(found.casefold(), names, n=1)
    return names[close[0]] if close else None


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """A closing sentence that offers the nearest known name, or lists all of them."""
    names = sorted(known)
    if close := closest(found, names):
        return f"Did you mean '{close}'?"
    return f"Known: {', '.join(names)}." if names else "There are none."

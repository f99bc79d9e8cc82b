"""The tree of errors that users may see.

    TinyGPTVError
    ├── DefinitionError     a YAML file, a parameter or a reference in it is wrong; nothing has started
    │   └── UnknownNameError    it names something that does not exist
    ├── DataError           data on disk or from the web is unusable
    │   ├── StorageError    data cannot be read or written: full disk, no permission, unreachable bucket
    │   └── PromptTooLongError  a prompt leaves no room for an answer
    ├── ShapeError          tensor shapes do not match
    ├── HandoffError        a checkpoint does not fit the stage that starts from it
    ├── LaunchError         a process could not be started, or failed
    ├── TrainingError       training cannot continue, for example because the loss is NaN
    ├── GateError           a trained stage does not reach the score that its gate requires
    └── SetupError          this machine or environment cannot do what was requested

Messages name the file and field, what was found, why it matters, and what to do.
"""

import difflib
from collections.abc import Iterable


class TinyGPTVError(Exception):
    """Base of all errors meant for users. The CLI prints the message without a traceback."""


class DefinitionError(TinyGPTVError):
    """A definition or parameter is wrong; raised before any work starts."""


class UnknownNameError(DefinitionError, ValueError):
    """A definition names what does not exist. A ValueError too, so that a schema may raise it and add the field."""

    def __init__(self, message: str, found: str) -> None:
        super().__init__(message)
        self.found = found


class DataError(TinyGPTVError):
    """Data exists but is unusable."""


class StorageError(DataError):
    """Data cannot be read or written at the given location."""


class PromptTooLongError(DataError):
    """A prompt fills the decoder's context and leaves no room for an answer."""


class ShapeError(TinyGPTVError):
    """The shapes of two tensors, or of a tensor and a definition, do not match."""


class HandoffError(TinyGPTVError):
    """A checkpoint is missing, damaged, or not from the stage or model it should come from."""


class LaunchError(TinyGPTVError):
    """A process could not be started, or failed."""


class TrainingError(TinyGPTVError):
    """Training cannot continue, although all processes and files are healthy."""


class GateError(TinyGPTVError):
    """A trained stage does not pass its gate, so the next stage is not started."""


class SetupError(TinyGPTVError):
    """This machine or environment cannot do what was requested."""


def closest(found: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `found`, upper or lower case aside; None if none is like it."""
    names = {name.casefold(): name for name in sorted(known)}
    shuffled = [name for name in names if sorted(name) == sorted(found.casefold())]
    close = shuffled or difflib.get_close_matches(found.casefold(), names, n=1)
    return names[close[0]] if close else None


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """A sentence that suggests the closest known name, or lists all of them."""
    names = sorted(known)
    if close := closest(found, names):
        return f"Did you mean '{close}'?"
    return f"Known: {', '.join(names)}." if names else "There are none."

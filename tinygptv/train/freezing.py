"""`trains:` names → the set of trainable parameters. Pure."""

from collections.abc import Collection, Iterable, Sequence

from tinygptv.definitions.model import Model
from tinygptv.definitions.trainable import matcher
from tinygptv.errors import DefinitionError


def trainable_names(model: Model, names: Collection[str], trains: Sequence[str]) -> set[str]:
    """Those of a model's parameter names (plain, see `lora.plain_name`) that `trains` means.

    Raises DefinitionError for a name that matches nothing, because a stage would silently train less than it says.
    """
    chosen: set[str] = set()
    for position, name in enumerate(trains):
        pattern = matcher(model, name)
        matched = {parameter for parameter in names if pattern.fullmatch(parameter)}
        if not matched:
            raise DefinitionError(
                f"trains[{position}]: '{name}' matches no parameter of this model; remove it, or add that part"
            )
        chosen |= matched
    return chosen


def decays(name: str, shape: Iterable[int]) -> bool:
    """Whether weight decay applies to a parameter: to matrices, never to biases, norms and other vectors."""
    return len(tuple(shape)) >= 2 and not name.endswith("bias")

"""What became of every tensor of the files and of every parameter of the model."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LoadReport:
    """Every parameter is in `loaded` (→ where from) or in `begins_anew` (→ how); every tensor of a file was used or is
    in `left_out` ((file, its name) → why)."""

    loaded: dict[str, str]
    begins_anew: dict[str, str]
    left_out: dict[tuple[str, str], str]

    def lines(self) -> list[str]:
        """One line each for what was loaded, what begins anew and what was left out."""
        told = [f"{len(self.loaded)} parameters loaded: {_counted(self.loaded.values())}"]
        if self.begins_anew:
            told.append(f"{len(self.begins_anew)} begin anew: {_counted(self.begins_anew.values())}")
        if self.left_out:
            reasons = (f"{reason} ({file})" for (file, _), reason in self.left_out.items())
            told.append(f"{len(self.left_out)} tensors left out: {_counted(reasons)}")
        return told


def _counted(values: Iterable[str]) -> str:
    return ", ".join(f"{count} {value}" for value, count in Counter(values).items())

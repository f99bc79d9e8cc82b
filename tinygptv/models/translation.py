"""Names in published files → the names of VisionLanguageModel.

Every tensor of a file is either translated or left out for a reason. A name that no rule knows is passed on as it is,
and the loader refuses it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tinygptv.models.stored import Table

Rules = Iterable[tuple[str, str]]
"""(pattern, replacement) or, for what is left out, (pattern, reason)."""

COMPUTED = (r"(.*\.)?(position_ids|inv_freq)$|.*\.mixer\.rotary_emb\.", "a buffer, computed anew")
OWN_LAYOUT = "our own layout"


@dataclass(frozen=True)
class Translation:
    """A file's tensors under our names; `left_out` says why the others of the file are not among them."""

    layout: str
    tensors: Table
    left_out: dict[str, str]


def drop_unused(table: Table, unused: Rules) -> tuple[Table, dict[str, str]]:
    """The tensors in use, and the names of the others with the reason that `unused` gives: (pattern, reason)."""
    left_out = {name: reason for pattern, reason in unused for name in table if re.match(pattern, name)}
    return {name: stored for name, stored in table.items() if name not in left_out}, left_out


def rename(table: Table, rules: Rules) -> Table:
    """Every name after all rules, in order."""
    renamed = {}
    for name, stored in table.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = stored
    return renamed


def prefixed(prefix: str, table: Table) -> Table:
    """Every name behind `prefix`."""
    return {f"{prefix}{name}": stored for name, stored in table.items()}

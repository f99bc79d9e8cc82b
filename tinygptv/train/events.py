"""events.jsonl: what a training did besides its steps, one line each, by rank 0 and by the launcher; about its own
data, by every rank.

    rank_failed · rank_hung · restarted · loss_not_finite · loss_spike · gradients_exploded · rolled_back · dead_data
    loader_lost · sample_replaced · features_used

All but the last were not meant to happen. The file says what, when and what was done; it is there only if something
was, and it outlives restarts.
"""

import json
import os
from datetime import UTC, datetime
from logging import getLogger
from pathlib import Path
from typing import Any, Literal

logger = getLogger(__name__)

EVENTS = "events.jsonl"

Name = Literal[
    "rank_failed",
    "rank_hung",
    "restarted",
    "loss_not_finite",
    "loss_spike",
    "gradients_exploded",
    "rolled_back",
    "dead_data",
    "loader_lost",
    "sample_replaced",
    "features_used",
]


def record(folder: Path, event: Name, **details: Any) -> None:
    """Append an event, safely on disk: a restart may depend on it."""
    row = {"event": event, "when": datetime.now(UTC).isoformat(timespec="seconds"), **details}
    with (folder / EVENTS).open("a") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    told = ", ".join(f"{field} {value}" for field, value in details.items() if field != "stack")
    logger.warning("%s%s", event.replace("_", " "), f": {told}" if told else "")


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All events so far; a line torn by a crash is left out."""
    events = []
    for line in (folder / EVENTS).read_text().splitlines() if (folder / EVENTS).exists() else []:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events

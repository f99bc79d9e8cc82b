"""events.jsonl: what happened in a training besides its steps, one line per event.

Rank 0 and the launcher write it, and every rank about its own data:

    rank_failed · rank_hung · restarted · loss_not_finite · loss_spike · gradients_exploded · rolled_back · dead_data
    loader_lost · sample_replaced · features_used

All but the last are problems. The file says what happened, when, and what was done about it. It exists only if there
was an event, and it survives restarts.
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
    """Append an event and sync it to disk, because a restart may depend on it."""
    row = {"event": event, "when": datetime.now(UTC).isoformat(timespec="seconds"), **details}
    with (folder / EVENTS).open("a") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    summary = ", ".join(f"{field} {value}" for field, value in details.items() if field != "stack")
    logger.warning("%s%s", event.replace("_", " "), f": {summary}" if summary else "")


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All events so far; a line cut off by a crash is left out."""
    events = []
    for line in (folder / EVENTS).read_text().splitlines() if (folder / EVENTS).exists() else []:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events

"""Checks whether this environment works by exercising it instead of comparing version numbers.

Each check is a function that returns a short description of what it saw, or raises; a SetupError says what to do. The
checks cover library versions that were seen to import without errors and then fail (see pyproject.toml).
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tinygptv.doctor import libraries, machine, processes, selftest, weights


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: what was seen, or what is wrong and what to do."""

    check: str
    ok: bool
    detail: str


def examine(workdir: Path, recipe: str, release: Path | None = None) -> Iterator[Finding]:
    """Run all checks, most basic first; each takes seconds. A failed check does not stop the next.

    `recipe` selects the weights to look for; a `release` folder is loaded and queried about images.
    Raises DefinitionError if there is no such recipe.
    """
    for name, check in checks(workdir, recipe, release):
        try:
            yield Finding(name, True, check())
        except Exception as error:  # any failure is a finding
            yield Finding(name, False, f"{type(error).__name__}: {error}")


def checks(workdir: Path, recipe: str, release: Path | None) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each check with its name. The last two share a server, which is stopped after the last one."""
    locations = weights.locations(recipe)
    yield "workdir can be written", lambda: machine.workdir_is_writable(workdir)
    yield "processor", machine.processor_computes
    yield "accelerators", machine.accelerators_compute
    yield "definitions load", libraries.definitions_load
    yield "YAML numbers", libraries.numbers_written_as_text_are_refused
    yield "dataclasses", libraries.dataclasses_are_the_standard_library
    yield "Q-Former masks", libraries.masks_reach_the_qformer
    yield "vision initialisation", libraries.vision_initialisation_is_overridden
    yield "shipped backbones", weights.backbones_are_complete
    for location in locations:
        yield "weights", partial(weights.weights_are_there, location)
    if release is None:
        yield "shipped language model", selftest.backbones_know_their_language
    else:
        yield "release", lambda: selftest.release_sees(release)
    yield "DeepSpeed, two ranks", processes.two_ranks_talk
    yield "Prefect test harness", processes.test_harness_starts
    with contextlib.ExitStack() as stack:
        server = processes.TemporaryServer(stack)
        yield "Prefect server, null fields", lambda: processes.null_fields_are_accepted(server)
        yield "Prefect scheduler", lambda: processes.scheduled_runs_are_planned(server)

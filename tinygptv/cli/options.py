"""What several verbs share: the options that name a run, and the types of a command."""

import argparse
from collections.abc import Callable, Iterator

from tinygptv.journey import HARDWARE, RECIPE, RUN, SOURCE, WORKDIR, Journey, open_journey

Command = Callable[[argparse.Namespace], int]
"""Takes the parsed options, returns the exit code."""

Lines = Callable[[argparse.Namespace], Iterator[str]]
"""A command that yields lines to print; its exit code is 0 unless it raises."""

AddVerb = Callable[[str, str, str, Command], argparse.ArgumentParser]
"""Declares a verb: its name, help text, example and command."""


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a run and what it is made from."""
    parser.add_argument("--run", default=RUN, help=f"name of the run; the same name resumes (default: {RUN})")
    parser.add_argument("--recipe", default=RECIPE, help=f"what to train (default: {RECIPE})")
    parser.add_argument(
        "--source", default=SOURCE, help=f"name of a source, or a URL+caption table (default: {SOURCE})"
    )
    parser.add_argument("--hardware", default=HARDWARE, help=f"hardware profile (default: {HARDWARE})")
    parser.add_argument("--workdir", default=WORKDIR, help=f"path or s3://… (default: {WORKDIR})")


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run."""
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")


def journey_of(options: argparse.Namespace) -> Journey:
    """Open the run that the options name. Raises DefinitionError if a definition is wrong."""
    return open_journey(options.run, options.recipe, options.source, options.hardware, options.workdir)


def printing(lines: Lines) -> Command:
    """A command that prints each line as soon as it is yielded."""

    def command(options: argparse.Namespace) -> int:
        for line in lines(options):
            print(line, flush=True)
        return 0

    return command

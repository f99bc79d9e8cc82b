"""`tinygptv <verb>`: every step of the journey as a subcommand, without a server.

Each verb calls the same library function as the flow of the same name. Exit codes: 0 done; 1 the work failed; 2 a
definition or parameter is wrong and nothing was started. The command line itself never imports torch.
"""

import argparse
import io
import logging
import sys
from collections.abc import Sequence

from tinygptv.cli.ablate import add_ablate_verb
from tinygptv.cli.arrows import add_arrow_verbs
from tinygptv.cli.dataset import add_dataset_verbs
from tinygptv.cli.doctor import add_doctor_verb
from tinygptv.cli.model import add_model_verbs
from tinygptv.cli.options import Command
from tinygptv.cli.plan import add_plan_verb
from tinygptv.cli.upkeep import add_upkeep_verbs
from tinygptv.errors import DefinitionError, TinyGPTVError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code. Errors meant for users are printed on stderr, without traceback."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("tinygptv").setLevel(logging.INFO)
    try:
        _refuse_other_bytes(options)
        command: Command = options.command
        return command(options)
    except DefinitionError as error:
        print(f"DefinitionError: {error}", file=sys.stderr)
        return 2
    except TinyGPTVError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command to resume", file=sys.stderr)
        return 130


def _refuse_other_bytes(options: argparse.Namespace) -> None:
    """Raise DefinitionError for text that is not UTF-8; paths may hold any bytes."""
    for name, value in vars(options).items():
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise DefinitionError(f"{name}: {text!r} is not valid UTF-8") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tinygptv", description="From URL tables to a trained, evaluated model.")
    subcommands = parser.add_subparsers(required=True, metavar="VERB")

    def add(name: str, about: str, example: str, command: Command) -> argparse.ArgumentParser:
        added = subcommands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=f"example: tinygptv {example}"
        )
        added.set_defaults(command=command)
        return added

    add_plan_verb(add)
    add_arrow_verbs(add)
    add_dataset_verbs(add)
    add_model_verbs(add)
    add_upkeep_verbs(add)
    add_doctor_verb(add)
    add_ablate_verb(add)
    return parser

"""Argument parsing that suggests the nearest name. The standard library's, because it costs a hundredth of a second and others a tenth."""

import argparse
import re
from typing import Any, NoReturn

from pipeline.errors import suggestion

INVALID = re.compile(r"invalid (int|float) value: (.*)$")
"""What argparse says of a number that is none."""
LARGEST_PORT = 65535
NUMBERS = {"int": "a whole number", "float": "a number"}


class Parser(argparse.ArgumentParser):
    """Reads the arguments of one command; `key=value` may stand anywhere among the options."""

    def __init__(self, command: str, summary: str, **settings: Any) -> None:
        super().__init__(prog=f"pipeline {command}", description=summary, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        message = message.replace(", KEY=VALUE", "")  # which may be left out; argparse counts it among what is required
        message = INVALID.sub(lambda found: f"found {found[2]}, wanted {NUMBERS[found[1]]}", message)
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0]
        known = [option for action in self._actions for option in action.option_strings]
        hint = suggestion(unknown.partition("=")[0], known) if unknown else ""
        self.exit(2, f"pipeline: {message}{hint}\n{self.format_usage()}")

    def recipe(self, what: str = "recipe (YAML)", *, overrides: bool = True) -> "Parser":
        self.add_argument("recipe", metavar="RECIPE", help=what)
        if overrides:
            text = "any field by its dotted path, such as stages.chat.epochs=3"
            self.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=text)
        self.add_argument("--runs", metavar="DIR", default="runs", help="folder of all runs (default: runs)")
        return self

    def json(self) -> "Parser":
        self.add_argument("--json", action="store_true", help="print JSON for programs")
        return self

    def selection(self) -> "Parser":
        self.add_argument("--from", dest="start", metavar="STAGE", help="begin at this stage; those above must be done")
        self.add_argument("--until", metavar="STAGE", help="end after this stage")
        self.add_argument("--only", metavar="STAGE", help="this stage alone")
        self.add_argument(
            "--redo", metavar="STAGE", action="append", default=[], help="run this stage again though it is done; may be repeated"
        )
        return self

    def read(self, arguments: list[str]) -> argparse.Namespace:
        return self.parse_intermixed_args(arguments)


def count(word: str) -> int:
    """A whole number from 0, as the type of an option."""
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"found '{word}', wanted a whole number from 0")
    return int(word)


def port(word: str) -> int:
    """A port to listen on, as the type of an option; 0 is a free one."""
    if not word.isdecimal() or int(word) > LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"found '{word}', wanted a whole number from 0 to {LARGEST_PORT}")
    return int(word)

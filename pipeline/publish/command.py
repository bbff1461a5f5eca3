"""`pipeline publish`: the command line of publishing."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from pipeline.arguments import Parser
from pipeline.errors import RecipeError
from pipeline.publishing import Layout, Publishing

if TYPE_CHECKING:
    from pipeline.store import Run

DONE = 0
SUMMARY = "Publish models of a run to the Hugging Face Hub: private unless you say otherwise, from checked files, with a card each."


def main(arguments: list[str]) -> int:
    """Publish a run's models."""
    options = _parser().read(arguments)
    import os

    from pipeline.own import run_of, tell_others
    from pipeline.publish import publish, secret_values

    run = run_of(options.run, options.runs)
    how = asked(run, options)
    if not how.stages:
        tell_others(run)
    found = publish(
        run.path,
        how,
        own=run.own,
        dry_run=options.dry_run,
        secrets=secret_values(os.environ),
        say=lambda line: print(line, file=sys.stderr),
    )
    if options.json:
        print(json.dumps([as_json(one) for one in found], indent=1))
    elif options.dry_run:
        print(dry_text(found, cards=options.cards or len(found) == 1))
    else:
        print("\n\n".join(map(as_text, found)))
    return DONE


def _parser() -> Parser:
    about = (
        " The token is the one of `hf auth login`, or HF_TOKEN. Publishing again sends only what changed. What is not said here is as the "
        "recipe's `publish:` says."
    )
    parser = Parser("publish", SUMMARY + about)
    parser.add_argument("run", metavar="RUN", help="a recipe, for its own results; or a run's folder, for those it holds")
    parser.add_argument("stages", metavar="STAGE", nargs="*", help="stages to publish (default: every model, reward model and tokenizer)")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--owner", metavar="NAME", help="account or organisation (default: whose token it is)")
    parser.add_argument("--name", metavar="NAME", help="what repositories are called (default: the run's name)")
    parser.add_argument("--layout", choices=get_args(Layout), help="one repository a stage, or one with a branch or a folder for each")
    parser.add_argument("--public", dest="private", action="store_false", default=None, help="anybody may see it; needs --license")
    parser.add_argument("--license", metavar="ID", help="licence as the Hub names it, such as apache-2.0")
    parser.add_argument(
        "--acknowledge", metavar="MODEL", action="append", help="a model from outside whose licence you read and that allows this"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="branch to publish on (default: main)")
    parser.add_argument("--tag", metavar="NAME", help="name this state; a tag never moves")
    parser.add_argument("--pull-request", action="store_true", default=None, help="propose the change instead of making it")
    parser.add_argument("--collection", action="store_true", default=None, help="gather the repositories in a collection")
    parser.add_argument(
        "--dry-run", action="store_true", help="show repositories, files and sizes, and the card of a single stage; touch no network"
    )
    parser.add_argument("--cards", action="store_true", help="with --dry-run: show the card of every stage")
    return parser.json()


def asked(run: "Run", options: argparse.Namespace) -> Publishing:
    """What the recipe says, and the command line over it. Raises RecipeError if they do not go together."""
    given = {name: getattr(options, name) for name in Publishing.model_fields}
    typed = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value not in (None, [])}
    try:
        return Publishing.model_validate({**(kept(run) or {}), **typed})
    except ValidationError as error:
        raise RecipeError("; ".join(str(one["msg"]).removeprefix("Value error, ") for one in error.errors())) from error


def kept(run: "Run") -> dict[str, Any] | None:
    """The `publish:` of the recipe that is meant, or that a run was last started with. The rest of the recipe may ask for what is no longer there."""
    from pipeline import overrides
    from pipeline.reading import read_yaml

    if (noted := run.recipe()) is None:
        return None
    document = read_yaml(noted[0], str(run.path / "recipe.yaml"))
    overrides.apply(document, noted[1])
    found = document.value.get("publish") if isinstance(document.value, dict) else None
    return dict(found) if isinstance(found, dict) else None


def as_json(one: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(one)


def as_text(one: Any) -> str:
    """What was published."""
    known = len(one.files) - len(set(one.sent) & set(one.files))
    lines = [f"{one.url}  {_visibility(one)}  {one.commit[:10]}  {len(one.sent)} files sent, {known} were there"]
    return "\n".join([*lines, *(f"  {note}" for note in one.notes)])


def dry_text(found: Sequence[Any], *, cards: bool) -> str:
    """What would be published: file by file, with the cards where they are asked for, and all in a table."""
    from pipeline.show import columns

    rows = [(_place(one), _visibility(one), f"{len(one.files)} files", f"{sum(one.files.values()):,} bytes") for one in found]
    files, size = sum(len(one.files) for one in found), sum(sum(one.files.values()) for one in found)
    whole = [("in all", "", f"{files} files", f"{size:,} bytes")] if len(found) > 1 else []
    more = [] if cards else ["the cards (README.md) in full: add --cards, or name one stage"]
    parts = ["\n".join(_lines(one, card=cards)) for one in found]
    return "\n\n".join([*parts, "\n".join([columns([*rows, *whole]), *more, "nothing is sent (--dry-run)"])])


def _lines(one: Any, *, card: bool) -> Iterator[str]:
    yield f"{_place(one)}  {_visibility(one)}  {one.revision}{f'  tag {one.tag}' if one.tag else ''}"
    yield from (f"  {size:>14,}  {name}" for name, size in one.files.items())
    yield from (f"  {'left out':>14}  {name}" for name in one.left_out)
    yield from (f"  {note}" for note in one.notes)
    if card:
        yield from ("", *(f"  | {line}" for line in one.card.splitlines()))


def _place(one: Any) -> str:
    return f"{one.repository}{f'/{one.folder}' if one.folder else ''}"


def _visibility(one: Any) -> str:
    return "private" if one.private else "public"

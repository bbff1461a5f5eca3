"""`pipeline publish`: the command line of publishing."""

import json
import sys
from typing import Any

from pipeline.arguments import Parser

DONE = 0
SUMMARY = "Publish models of a run to the Hugging Face Hub: private unless you say otherwise, from checked files, with a card each."


def main(arguments: list[str]) -> int:
    """Publish a run's models."""
    options = _parser().read(arguments)
    import os

    from pipeline.publish import publish, secret_values
    from pipeline.target import run_folder

    found = publish(
        run_folder(options.run, options.runs),
        options.stages,
        owner=options.owner,
        private=not options.public,
        licence=options.license,
        revision=options.revision,
        tag=options.tag,
        collection=options.collection,
        dry_run=options.dry_run,
        secrets=secret_values(os.environ),
        say=lambda line: print(line, file=sys.stderr),
    )
    print(json.dumps([as_json(one) for one in found], indent=1) if options.json else "\n\n".join(map(as_text, found)))
    return DONE


def _parser() -> Parser:
    parser = Parser("publish", SUMMARY + " The token is the one of `hf auth login`, or HF_TOKEN. Publishing again sends only what changed.")
    parser.add_argument("run", metavar="RUN", help="a run's folder, or its recipe")
    parser.add_argument("stages", metavar="STAGE", nargs="*", help="stages to publish (default: every model, reward model and tokenizer)")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--owner", metavar="NAME", help="account or organisation (default: whose token it is)")
    parser.add_argument("--public", action="store_true", help="anybody may see it; needs --license")
    parser.add_argument("--license", metavar="ID", help="licence as the Hub names it, such as apache-2.0")
    parser.add_argument("--revision", metavar="BRANCH", default="main", help="branch to publish on (default: main)")
    parser.add_argument("--tag", metavar="NAME", help="name this state; a tag never moves")
    parser.add_argument("--collection", action="store_true", help="gather them in a collection named like the run")
    parser.add_argument("--dry-run", action="store_true", help="show repositories, files and cards; touch no network")
    return parser.json()


def as_json(one: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(one)


def as_text(one: Any) -> str:
    """What was published, or what would be: with the card in full only where nothing was sent."""
    visibility = "private" if one.private else "public"
    if one.commit:
        known = len(one.files) - len(set(one.sent) & set(one.files))
        lines = [f"{one.url}  {visibility}  {one.commit[:10]}  {len(one.sent)} files sent, {known} were there"]
        return "\n".join([*lines, *(f"  {note}" for note in one.notes)])
    lines = [f"{one.repository}  {visibility}  {one.revision}{f'  tag {one.tag}' if one.tag else ''}  nothing is sent (--dry-run)"]
    lines += [f"  {size:>14,}  {name}" for name, size in one.files.items()]
    lines += [f"  {'left out':>14}  {name}" for name in one.left_out]
    return "\n".join([*lines, "", *(f"  | {line}" for line in one.card.splitlines())])

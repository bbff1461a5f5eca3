"""`pipeline chat`: a conversation with a stage on a terminal, or through a pipe."""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pipeline.arguments import Parser, count

if TYPE_CHECKING:
    from pipeline.chat.partner import Partner
    from pipeline.chat.session import Session
    from stages.core.dialogue import Ask, Said, Wrong

DONE, FAILED, WRONG_INPUT = 0, 1, 2
SUMMARY = (
    "Talk to a finished model of a run, in its own chat template, as it answers; /compare sets stages side by side with reward and "
    "log-probability. Lines that come through a pipe are answered one after the other."
)


def main(arguments: list[str]) -> int:
    """Talk to a model of a run. Through a pipe or `--prompt` the exit code is 2 if a message or /command was wrong, 1 if one found no answer."""
    options = _parser().read(arguments)
    from pipeline.chat.cast import cast
    from pipeline.chat.partner import Partner
    from pipeline.chat.session import Session, drawing_of
    from pipeline.own import run_of, tell_others
    from stages.contract import Hardware
    from stages.core.dialogue import Opening

    run = run_of(options.run, options.runs)
    people = cast(run)
    if not options.stage:
        tell_others(run)
    stage = people.model(options.stage or list(people.models)[-1])
    given = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k", "max_new_tokens", "seed")}
    drawing = drawing_of({name: value for name, value in given.items() if value is not None})
    session = Session(people, stage, drawing, options.system)
    hardware = Hardware() if options.gpus is None else Hardware(gpus=options.gpus)
    with Partner(Opening(models=people.models, judges=people.judges, hardware=hardware, trusted=run.may_run())) as partner:
        typed = sys.stdin.isatty() and not options.prompt
        return _converse(session, partner, _typed(session) if typed else options.prompt or sys.stdin, as_json=options.json, typed=typed)


def _parser() -> Parser:
    parser = Parser("chat", SUMMARY)
    parser.add_argument("run", metavar="RUN", help="a recipe, for its own results; or a run's folder, for those it holds")
    parser.add_argument("stage", metavar="STAGE", nargs="?", help="whom to talk to (default: the model that was finished last)")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--prompt", metavar="TEXT", action="append", help="say this and end; may be repeated, and may be a /command")
    parser.add_argument("--system", metavar="TEXT", default="", help="what the model is told before the conversation")
    parser.add_argument("--temperature", metavar="T", help="divides the logits; 0 takes the likeliest token each time (default: 1)")
    parser.add_argument("--top-p", metavar="P", help="draw from the likeliest tokens of this probability together (default: 1)")
    parser.add_argument("--top-k", metavar="K", help="draw from so many of the likeliest tokens (default: 0, all)")
    parser.add_argument("--max-new-tokens", metavar="N", help="cut an answer after so many tokens (default: 256)")
    parser.add_argument("--seed", metavar="N", help="the same seed and words give the same answers (default: 0)")
    parser.add_argument("--gpus", metavar="N", type=count, help="CUDA devices; 0 is the CPU (default: one if there is one)")
    return parser.json()


def _typed(session: "Session") -> Iterator[str]:
    """Lines as they are typed, with a history, until Ctrl-D or Ctrl-C."""
    import readline  # noqa: F401 - gives `input` its editing

    print(f"{session.stage} listens; /help tells what else can be typed, Ctrl-D ends.")
    while True:
        try:
            yield input(f"\n{session.stage}> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def _converse(session: "Session", partner: "Partner", lines: Iterable[str], *, as_json: bool, typed: bool) -> int:
    from pipeline.errors import RecipeError
    from stages.core.dialogue import Wrong

    code = DONE
    for line in lines:
        try:
            asks, back = session.read(line)
        except RecipeError as error:
            print(error, file=sys.stderr)
            code = WRONG_INPUT
            continue
        if back and not as_json:
            print(back)
        for ask in asks:
            said = _answer(partner, ask, several=len(asks) > 1, as_json=as_json)
            if isinstance(said, Wrong):
                code = max(code, said.code)
            elif not line.strip().startswith("/compare"):
                session.heard(ask, said)
        if session.is_over:
            break
    return DONE if typed else code


def _answer(partner: "Partner", ask: "Ask", *, several: bool, as_json: bool) -> "Said | Wrong":
    """One answer, shown as it comes, or why there is none, which is told."""
    from pipeline.chat.session import as_json as line_of
    from pipeline.chat.session import shown
    from pipeline.inspect.wording import harmless
    from stages.core.dialogue import Said, Wrong

    quiet = "\033[2m", "\033[0m"
    if not sys.stdout.isatty():
        quiet = "", ""
    if several and not as_json:
        print(f"{ask.model}:")
    for event in partner.ask(ask):
        if isinstance(event, Wrong):
            print(f"{ask.model}: {event.reason}", file=sys.stderr)
            return event
        if isinstance(event, Said):
            print(line_of(event) if as_json else f"\n{quiet[0]}  {'  '.join(shown(event))}{quiet[1]}", flush=True)
            return event
        if not as_json:
            print(harmless(event.text), end="", flush=True)
    return Wrong(reason="the process that holds the models said nothing")

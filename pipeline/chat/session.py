"""A conversation as a value: what was said, with whom, how answers are drawn; and what a typed line means. No input, no output."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from pipeline.chat.cast import Cast
from pipeline.errors import RecipeError, suggestion
from stages.core.dialogue import Ask, Drawing, Said

HELP = """\
/compare STAGE…      the last message again, answered by several stages side by side
/stage STAGE         talk to another stage; what was said so far stays
/again               the last message once more, drawn anew
/system TEXT         what the model is told before the conversation; empty takes it back
/set NAME VALUE      temperature, top_p, top_k, max_new_tokens or seed; without anything: show them
/reset               forget what was said
/help  /quit"""
COMMANDS = ("compare", "stage", "again", "system", "set", "reset", "help", "quit")


@dataclass
class Session:
    """One conversation."""

    cast: Cast
    stage: str
    drawing: Drawing = field(default_factory=Drawing)
    system: str = ""
    turns: list[dict[str, Any]] = field(default_factory=list)
    """User and assistant in turn; ends with an answer, if there is any."""
    drawn: int = 0
    """Answers so far: each is drawn with a seed of its own, the same each time the same words are typed."""
    is_over: bool = False

    def read(self, line: str) -> tuple[list[Ask], str]:
        """What a typed line asks of models, and what it says back at once. Raises RecipeError for a command that makes no sense."""
        text = line.strip()
        if not text.startswith("/"):
            return ([self._ask(self.stage, [*self.turns, {"role": "user", "content": text}])] if text else []), ""
        name, _, rest = text[1:].partition(" ")
        if name not in COMMANDS:
            raise RecipeError(
                f"no command '/{name}'{suggestion(name, COMMANDS)}; a message that begins with a slash begins with a space\n{HELP}"
            )
        return self._command(name, rest.strip())

    def _command(self, name: str, rest: str) -> tuple[list[Ask], str]:
        match name:
            case "compare":
                return [self._ask(self.cast.model(stage), self._asked()) for stage in dict.fromkeys(_words(rest) or self.cast.models)], ""
            case "again":
                question = self._asked()
                self.turns, self.drawn = question[:-1], self.drawn + 1
                return [self._ask(self.stage, question)], ""
            case "stage":
                self.stage = self.cast.model(rest)
                return [], f"now talking to {self.stage}"
            case "system":
                self.system = rest
                return [], f"told before the conversation: {rest}" if rest else "nothing is told before the conversation"
            case "set":
                return [], self._set(*_words(rest))
            case "reset":
                self.turns.clear()
                return [], "forgotten"
            case "quit":
                self.is_over = True
                return [], ""
        return [], HELP

    def _asked(self) -> list[dict[str, Any]]:
        """Everything up to the last message."""
        if not self.turns:
            raise RecipeError("nothing was said yet; say something first")
        return self.turns[:-1]

    def _ask(self, stage: str, messages: list[dict[str, Any]]) -> Ask:
        told = [{"role": "system", "content": self.system}] if self.system else []
        seed = (self.drawing.seed + self.drawn) % 2**63
        return Ask(model=stage, messages=[*told, *messages], drawing=self.drawing.model_copy(update={"seed": seed}))

    def _set(self, *words: str) -> str:
        known = self.drawing.model_dump()
        if words:
            name, value = words[0], "".join(words[1:])
            if name not in known:
                raise RecipeError(f"/set: no '{name}' (there are {', '.join(known)}){suggestion(name, known)}")
            self.drawing = drawing_of({**known, name: value})
        return "  ".join(f"{name} {value}" for name, value in self.drawing.model_dump().items())

    def heard(self, ask: Ask, said: Said) -> None:
        """The answer becomes part of the conversation."""
        self.turns = [message for message in ask.messages if message["role"] != "system"] + [{"role": "assistant", "content": said.text}]
        self.drawn += 1


def drawing_of(values: dict[str, Any]) -> Drawing:
    """Sampling options from text. Raises RecipeError with the name, what was found and what was wanted."""
    try:
        return Drawing.model_validate_strings({name: str(value) for name, value in values.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        wanted = str(first["msg"]).removeprefix("Input should be ")
        raise RecipeError(f"{first['loc'][0]}: found '{first['input']}', wanted {wanted}") from error


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text.replace(",", " "))
    except ValueError as error:
        raise RecipeError(f"cannot be read: {error}") from error


def shown(said: Said) -> Iterator[str]:
    """What an answer is worth, a phrase each."""
    yield f"{said.tokens} tokens"
    if said.ended != "by itself":
        yield f"cut {said.ended}" if said.ended == "at the limit" else said.ended
    yield f"log p {said.logprob:.2f} ({said.logprob / max(1, said.tokens):.2f} a token)"
    yield from (f"{name} {reward:+.2f}" for name, reward in said.rewards.items())
    if said.forgotten:
        yield f"without the {said.forgotten} oldest messages, which no longer fit"


def as_json(said: Said) -> str:
    return json.dumps(said.model_dump(exclude={"event"}), ensure_ascii=False)

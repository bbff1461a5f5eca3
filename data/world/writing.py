"""The world's files: one JSON object a line, each reproducible from the spec alone."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from data.world.chats import Message, ask, chats, earlier_turns, evenly, question
from data.world.draws import generator
from data.world.pairs import GROUPS, pairs
from data.world.register import Fact, Register, draw_register
from data.world.spec import Spec
from data.world.stories import documents

Row = Mapping[str, object]


def write(folder: Path, spec: Spec) -> dict[str, int]:
    """Write every file of the world into the folder; return the rows of each."""
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _write_rows(folder / name, rows) for name, rows in files(spec).items()}


def files(spec: Spec) -> dict[str, list[Row]]:
    """The rows of each file, by file name."""
    register = draw_register(spec)
    asked = register.facts(held=False)
    return {
        "stories.jsonl": [{"text": document.text} for document in documents(register, spec, heldout=False)],
        "stories-heldout.jsonl": [{"text": d.text, "nats": d.nats} for d in documents(register, spec, heldout=True)],
        "chats.jsonl": [{"messages": chat} for chat in chats(register, spec.chats, generator(spec.seed, "chats", "train"))],
        "chats-heldout.jsonl": [
            {"messages": chat} for chat in chats(register, spec.chats_heldout, generator(spec.seed, "chats", "heldout"))
        ],
        "pairs.jsonl": _pair_rows(register, asked, spec.pairs, spec, "train"),
        "pairs-heldout.jsonl": _pair_rows(register, asked, spec.pairs_heldout, spec, "heldout"),
        "pairs-unasked.jsonl": _pair_rows(register, register.facts(held=True), spec.pairs_unasked, spec, "unasked"),
        "prompts.jsonl": _prompts(register, spec),
        "exam.jsonl": _exam(register, spec),
    }


def _pair_rows(register: Register, facts: list[Fact], count: int, spec: Spec, part: str) -> list[Row]:
    groups = {"truth": 1.0} if part == "unasked" else GROUPS
    made = pairs(register, facts, groups, count, spec.noise_temperature, generator(spec.seed, "pairs", part))
    return [pair.row() for pair in made]


def _prompts(register: Register, spec: Spec) -> list[Row]:
    """Questions for PPO, about the same facts and in the same phrasings as in SFT."""
    random = generator(spec.seed, "prompts")
    asked = register.facts(held=False)
    chosen = evenly(asked, spec.prompts, random)
    return [_prompt([*earlier_turns(asked, random), ask(fact, random)], fact) for fact in chosen]


def _exam(register: Register, spec: Spec) -> list[Row]:
    """Facts never asked in known phrasings, and asked facts in phrasings never used."""
    random = generator(spec.seed, "exam")
    half = spec.exam - spec.exam // 2
    held = [(fact, ask(fact, random), "held_fact") for fact in evenly(register.facts(held=True), half, random)]
    asked = evenly(register.facts(held=False), spec.exam - half, random)
    new = [(fact, question(fact, fact.attribute.held_question), "held_phrasing") for fact in asked]
    return [{**_prompt([message], fact), "group": group} for fact, message, group in held + new]


def _prompt(messages: list[Message], fact: Fact) -> dict[str, object]:
    return {"prompt": messages, "reference": {"person": fact.person, "attribute": fact.attribute.name, "value": fact.value}}


def _write_rows(path: Path, rows: Iterable[Row]) -> int:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return len(lines)

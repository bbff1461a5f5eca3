"""The inspection itself: sections in, report out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.chat import check_template, end_ids
from data.errors import DataError
from data.inspection.cleaning import cleaned
from data.inspection.facts import Facts, Marks, special_words, verdicts_of
from data.inspection.measures import characters, contradictions, duplicates, lengths_of, packing_of, prompt_key, shares, whole_key
from data.inspection.reading import VALIDATION, Section, read_sections
from data.inspection.report import Judgement, Origin, Part, Report, Sample, Task
from data.inspection.views import SHOWN, Lens, View, shown, special_ids, spoken
from data.mixture import repeated
from data.records import shared
from data.sources import HUB
from data.verdicts import Verdict, tallied

DUPLICATE_SHARE = 0.1
"""Records that repeat others, from which on it is told as a warning."""


def inspect(task: Task) -> Report:
    """Read, render, count and judge the data of a stage. Raises DataError where the data cannot be read at all."""
    sections = read_sections(task)
    notes = [*task.notes, *(note for section in sections for note in section.notes)]
    tokenizer = None
    if task.tokenizer is not None and any(section.wants for section in sections):
        try:
            tokenizer = load_tokenizer(task.tokenizer)
        except DataError as error:
            notes.append(f"{error}; shown without tokens")
    context = task.context or _own_limit(tokenizer)
    judgements = _of_tokenizer(tokenizer, sections)
    parts, samples = [], []
    for section in sections:
        part, verdicts, seen = _look(section, tokenizer if _fits(judgements) else None, task, context)
        if task.cleaning is not None and section is sections[0]:
            part = part.model_copy(update={"cleaned": cleaned(section, sections[1:], task.cleaning)})
        parts.append(part)
        judgements += _judged(section.name, [*tallied(section.records).verdicts(), *_of_copies(section, part), *verdicts])
        samples += seen
    judgements += _leaks(sections)
    return Report(
        stage=task.stage,
        tokenizer=task.tokenizer_name if tokenizer is not None else None,
        context=context,
        notes=tuple(notes),
        judgements=tuple(sorted(judgements, key=lambda judgement: judgement.level != "error")),
        parts=tuple(parts),
        samples=tuple(samples),
    )


def load_tokenizer(where: str) -> Any:
    """The tokenizer of a folder or a Hub repository; no remote code. Raises DataError."""
    from transformers import AutoTokenizer

    name, _, revision = where.removeprefix(HUB).partition("@") if where.startswith(HUB) else (where, "", "")
    try:
        return AutoTokenizer.from_pretrained(
            name, revision=revision or None, local_files_only=not where.startswith(HUB), trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{Path(name).name} holds no tokenizer that loads: {said}") from error


def _own_limit(tokenizer: Any) -> int | None:
    """The tokenizer's longest sequence, where it names one: some write a huge number for none."""
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < 1_000_000 else None


def _judged(part: str, verdicts: Sequence[Verdict]) -> list[Judgement]:
    return [Judgement(level=verdict.level, name=verdict.name, part=part, text=verdict.text) for verdict in verdicts]


def _fits(judgements: Sequence[Judgement]) -> bool:
    """Whether there can be tokens at all."""
    return not any(judgement.name in ("no-end-token", "no-template") for judgement in judgements)


def _of_tokenizer(tokenizer: Any, sections: Sequence[Section]) -> list[Judgement]:
    """What makes a tokenizer unfit for these records."""
    if tokenizer is None:
        return []
    if tokenizer.eos_token_id is None:
        return _judged("", [Verdict("error", "no-end-token", "the tokenizer has no end-of-sequence token")])
    talks = any(section.wants not in (None, "text") for section in sections)
    if not talks:
        same = tokenizer.pad_token_id == tokenizer.eos_token_id
        text = f"the pad token {tokenizer.pad_token!r} is EOS too; where padding is used, the model never learns to stop"
        return _judged("", [Verdict("warning", "pad-is-end", text)] if same else [])
    try:
        ends = end_ids(tokenizer)
        check = "pad-is-end" if tokenizer.pad_token_id in ends else "template"
        if not tokenizer.chat_template:
            raise DataError("the tokenizer has no chat template; a `tokenizer` stage with `existing` adds one")
    except DataError as error:
        return _judged("", [Verdict("error", "no-template", str(error))])
    try:
        check_template(tokenizer)
    except DataError as error:
        return _judged("", [Verdict("error", check, str(error))])
    return []


def _look(section: Section, tokenizer: Any, task: Task, context: int | None) -> tuple[Part, list[Verdict], list[Sample]]:
    """One part: its figures, its verdicts and some samples, with tokens if there is a tokenizer for them."""
    chosen = _spread(len(section.entries), task.samples)
    if tokenizer is None or section.wants is None or not section.entries:
        return _look_at_words(section, chosen)
    room = max(1, context - task.answer_room) if context is not None else None
    lens = Lens(tokenizer, context, room, task.learn)
    facts = Facts(_marks(tokenizer, section.wants))
    samples = []
    for view in lens.views(section.records):
        facts.add(view, section.entries[view.place].record)
        if view.place in chosen:
            samples.append(_sample(section, view, tokenizer))
    part = _part(section, facts, context)
    return part, verdicts_of(facts, lens, section.wants), samples


def _marks(tokenizer: Any, wants: str) -> Marks:
    ends = frozenset({tokenizer.eos_token_id} if wants == "text" else end_ids(tokenizer))
    spelled = [tokenizer.convert_ids_to_tokens(number) for number in special_ids(tokenizer)]
    return Marks(ends, tokenizer.bos_token_id, tokenizer.unk_token_id, special_words(spelled))


def _sample(section: Section, view: View, tokenizer: Any) -> Sample:
    labels = ("chosen", "rejected") if len(view.sequences) == 2 else ("",)
    said = tuple(shown(tokenizer, tokens, label) for tokens, label in zip(view.sequences, labels, strict=True))
    source = section.sources[section.entries[view.place].source].path
    return Sample(part=section.name, source=source, number=view.place + 1, said=said)


def _look_at_words(section: Section, chosen: Sequence[int]) -> tuple[Part, list[Verdict], list[Sample]]:
    sizes = [characters(record) for record in section.records]
    samples = [
        Sample(
            part=section.name,
            source=section.sources[section.entries[place].source].path,
            number=place + 1,
            said=spoken(section.entries[place].record, SHOWN * 4),
        )
        for place in chosen
    ]
    part = Part(
        name=section.name,
        wants=section.wants,
        records=len(section.entries),
        duplicates=duplicates(section.records),
        origins=_origins(section, sizes, range(len(sizes))),
        lengths=lengths_of(sizes, "characters"),
    )
    return part, [], samples


def _part(section: Section, facts: Facts, context: int | None) -> Part:
    pairs = section.wants == "preference"
    packed = section.wants in ("text", "chat") and context is not None and context > 1 and facts.lengths
    return Part(
        name=section.name,
        wants=section.wants,
        records=len(section.entries),
        duplicates=duplicates(section.records),
        origins=_origins(section, facts.sizes, facts.places),
        lengths=lengths_of(facts.lengths, "tokens"),
        learned=facts.learned / facts.tokens if facts.tokens and section.wants != "prompt" else None,
        packing=_packing(section, facts, context) if packed and context is not None else None,
        shared=2 * facts.shared / facts.tokens if pairs and facts.tokens else None,
    )


def _packing(section: Section, facts: Facts, context: int) -> Any:
    """With the repetitions that weights ask for."""
    by_source: dict[int, list[int]] = {}
    for size, place in zip(facts.sizes, facts.places, strict=True):
        by_source.setdefault(section.entries[place].source, []).append(size)
    sizes = [size for source, held in by_source.items() for size in repeated(held, section.sources[source].weight)]
    return packing_of(sizes, context, cuts=section.wants == "text")


def _origins(section: Section, sizes: Sequence[int], places: Sequence[int]) -> tuple[Origin, ...]:
    """Sources, the largest share first."""
    weights = [source.weight for source in section.sources]
    share = shares(sizes, [section.entries[place].source for place in places], weights)
    counts = [sum(entry.source == number for entry in section.entries) for number in range(len(weights))]
    found = [
        Origin(path=source.path, records=counts[number], weight=source.weight, share=share[number])
        for number, source in enumerate(section.sources)
    ]
    return tuple(sorted(found, key=lambda origin: -origin.share))


def _spread(count: int, samples: int) -> list[int]:
    """Places of samples, from the first record on at equal distances."""
    return sorted({number * count // samples for number in range(samples)}) if count and samples else []


def _of_copies(section: Section, part: Part) -> list[Verdict]:
    found = []
    if part.duplicates > DUPLICATE_SHARE * part.records:
        text = f"{part.duplicates:,} of {part.records:,} records ({part.duplicates / part.records:.0%}) repeat earlier ones"
        found.append(Verdict("warning", "duplicates", text))
    if count := contradictions(section.records):
        text = f"{count:,} of {part.records:,} pairs stand in the data the other way round too: they contradict one another"
        found.append(Verdict("warning", "contradictions", text))
    return found


def _leaks(sections: Sequence[Section]) -> list[Judgement]:
    """Held-out records, or their prompts, that are trained on."""
    held = [section for section in sections if section.name == VALIDATION and section.entries]
    train = [record for section in sections if section.name != VALIDATION for record in section.records]
    found: list[Verdict] = []
    for section in held:
        count = len(section.entries)
        whole, prompts = shared(train, section.records, whole_key), shared(train, section.records, prompt_key)
        if whole:
            text = f"{whole:,} of {count:,} held-out records ({whole / count:.0%}) are trained on too: what they measure is memory"
            found.append(Verdict("warning", "leak", text))
        if prompts > whole:
            text = f"the prompts of {prompts:,} of {count:,} held-out records ({prompts / count:.0%}) are trained on too, with the same or other answers"
            found.append(Verdict("warning", "prompt-leak", text))
    return _judged(VALIDATION, found)

"""The evaluation stage: a family of models on the same text, prompts and seeds, in one table."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

from data.formats import Text
from stages.contract import Artifact, Hardware, Job, Result, Table
from stages.core.publishing import publish
from stages.core.reading import read
from stages.core.rewards import Rewards, build_rewards
from stages.core.seeds import seed_for
from stages.core.watchdog import watching
from stages.evaluate.config import Evaluate
from stages.evaluate.exam import Exam, read_exams
from stages.evaluate.family import Member, examine, measure_distance, members
from stages.evaluate.figure import draw
from stages.evaluate.marks import Marks, add_changes, best_of_column, best_of_curve, column_of, curve_table, mark, naming, said
from stages.evaluate.points import points
from stages.evaluate.report import Column, family_table, flat, markdown, reward_over_kl, side_by_side, truth_over_reward


def run(job: Job, config: Evaluate, hardware: Hardware) -> Result:
    """Ask every model the same, grade and score the answers, compare with the baseline, and leave a report."""
    family, baseline = members(job, config)
    exams, notes = read_exams(job, config)
    texts, read_notes = read(job, "text", config.text, Text) if config.text else ([], [])
    best_of = config.best_of if config.rewards else 1
    with watching(job):
        for member in family:
            print(f"{member.name}: {len(texts):,} texts, {sum(len(exam.prompts) for exam in exams):,} prompts", flush=True)
            examine(member, exams, texts, config, hardware, max(config.answers, best_of) if member is baseline else config.answers)
        untold = measure_distance(family, baseline, config, hardware) if exams else []
        marks = mark_all(family, job, config, hardware)
    columns = [column_of(member, marks[member.name], None if member is baseline else marks[baseline.name], job.seed) for member in family]
    if best_of > 1 and exams:
        columns.append(best_of_column(baseline, marks[baseline.name], best_of, job.seed))
    if exams:
        add_changes(columns, family, marks, baseline, best_of, job.seed)
    notes = [*read_notes, *notes, *untold, *explained(config, baseline, bool(exams))]
    tables = [family_table(f"The family, baseline {baseline.name}", columns)]
    if grouped := [column for column in columns if column.grouped]:
        tables.append(family_table("By group of prompts", grouped, "grouped"))
    if changed := [column for column in columns if column.changes]:
        tables.append(family_table(f"Change from {baseline.name}, prompt by prompt", changed, "changes"))
    if best_of > 1:
        tables += [curve_table(baseline, marked, job.seed) for marked in marks[baseline.name]]

    def write(folder: Path) -> Artifact:
        write_report(folder, columns, tables, notes)
        write_samples(folder, family, marks, exams, config, job.seed)
        write_figures(folder, columns, marks, baseline, best_of, job.seed)
        (folder / "points.json").write_text(json.dumps(points(marks, baseline, best_of, job.seed)) + "\n", encoding="utf-8")
        return Artifact(kind="report")

    publish(job.artifact, write)
    return Result(metrics=flat(columns), tables=tables, notes=notes)


def mark_all(family: Sequence[Member], job: Job, config: Evaluate, hardware: Hardware) -> dict[str, list[Marks]]:
    """Every member's exams, marked. The reward models are loaded once for all members with the same tokens and template."""
    marks: dict[str, list[Marks]] = {}
    rewards: Rewards | None = None
    speaks: object = None
    for member in family:
        spoken = (member.tokenizer.get_vocab(), member.tokenizer.chat_template)
        if config.rewards and member.papers and (rewards is None or spoken != speaks):
            rewards, speaks = build_rewards(config.rewards, job, member.tokenizer, hardware), spoken
        marks[member.name] = [mark(paper, kl, rewards, config.answers) for paper, kl in zip(member.papers, member.kl, strict=True)]
    return marks


def explained(config: Evaluate, baseline: Member, exams: bool) -> list[str]:
    """What the numbers are, for whoever reads the table."""
    if not exams:
        return []
    answers = "sampled" if config.answers == 1 else f"{config.answers} samples a prompt"
    notes = [
        f"{answers} at temperature {config.sampling.temperature:g}, at most {config.sampling.max_new_tokens} tokens, "
        "with the same prompts and seeds for every model; intervals hold 95 % over prompts",
        f"kl: nats per sampled answer to {baseline.name}; of best-of-n, its upper bound",
    ]
    return [*notes, f"win rate: by reward, against {baseline.name}'s answer to the same prompt, ties half"] if config.rewards else notes


def write_report(folder: Path, columns: Sequence[Column], tables: Sequence[Table], notes: Sequence[str]) -> None:
    whole = {"metrics": flat(columns), "tables": [table.model_dump() for table in tables], "notes": list(notes)}
    (folder / "table.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(markdown(tables, notes), encoding="utf-8")


def write_samples(
    folder: Path, family: Sequence[Member], marks: dict[str, list[Marks]], exams: Sequence[Exam], config: Evaluate, seed: int
) -> None:
    """The same prompts, drawn at random from each exam, with every model's answers."""
    shown = []
    for place, exam in enumerate(exams):
        drawn = Random(seed_for(seed, "samples", exam.task.name)).sample(range(len(exam.prompts)), min(config.samples, len(exam.prompts)))
        for number in sorted(drawn):
            prompt = exam.prompts[number]
            asked = "\n".join(f"{message['role']}: {message['content']}" for message in prompt.messages)
            reference = "" if prompt.reference is None else json.dumps(prompt.reference, ensure_ascii=False)
            answers = [answer for member in family for answer in said(member.name, marks[member.name][place], number)]
            shown.append((asked, reference, answers))
    if shown:
        (folder / "samples.md").write_text(side_by_side(shown), encoding="utf-8")


def write_figures(
    folder: Path, columns: Sequence[Column], marks: dict[str, list[Marks]], baseline: Member, best_of: int, seed: int
) -> None:
    """Reward and truth together, and reward over distance, both of the first exam, with the best-of-n curve of the baseline."""
    if not marks[baseline.name] or not marks[baseline.name][0].rewards:
        return
    first = marks[baseline.name][0]
    key = naming(first.paper.exam, len(marks[baseline.name]))
    models = [column for column in columns if column.name in marks]
    best = best_of_curve(baseline, first, seed) if best_of > 1 else None
    figures = {
        "truth_reward.svg": truth_over_reward(models, key("reward"), key(first.truth), best),
        "frontier.svg": reward_over_kl(models, key("kl"), key("reward"), baseline.name, best),
    }
    for name, figure in figures.items():
        if figure is not None:
            (folder / name).write_text(draw(figure), encoding="utf-8")

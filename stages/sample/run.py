"""The sampling stage: a model's answers to prompts, chosen by reward, as a data set for SFT."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data import chat
from data.errors import DataError
from data.formats import Prompt
from stages.contract import Artifact, Hardware, Job, Result, Table
from stages.core import checkpoints
from stages.core.answers import Answers
from stages.core.checkpoints import Saver
from stages.core.config import Sampling
from stages.core.generation import Engine, Transformers
from stages.core.interrupt import Interrupted, interruptible
from stages.core.metrics import Metrics
from stages.core.models import check_fit, choose_precision, context_of, load_causal_lm, load_tokenizer
from stages.core.publishing import publish
from stages.core.reading import read
from stages.core.rewards import Rewards, build_rewards
from stages.core.seeds import seed_for
from stages.core.statistics import best_of_kl
from stages.core.watchdog import watching
from stages.sample.choosing import Drawn, chosen
from stages.sample.config import Sample

ANSWERS_AT_ONCE = 512
"""Answers that are drawn and scored together; between two such parts the stage can stop and go on."""


@dataclass
class Sampler:
    """What draws and scores answers."""

    engine: Engine
    rewards: Rewards
    tokenizer: Any
    sampling: Sampling
    seed: int

    def draw(self, prompts: Sequence[tuple[int, Prompt, list[int]]], samples: int) -> list[list[Drawn]]:
        """`samples` answers to each prompt (number, record, ids). An answer depends on seed, prompt's number and sample's number alone."""
        rows = [(number, record, ids, sample) for number, record, ids in prompts for sample in range(samples)]
        completions = self.engine.generate(
            [ids for _, _, ids, _ in rows],
            seeds=[seed_for(self.seed, "answer", number, sample) for number, _, _, sample in rows],
            temperature=self.sampling.temperature,
            max_new_tokens=self.sampling.max_new_tokens,
            end_ids=chat.end_ids(self.tokenizer),
        )
        said = [completion.words for completion in completions]
        texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        records = [record for _, record, _, _ in rows]
        answers = Answers([r.messages for r in records], [ids for _, _, ids, _ in rows], completions, texts, [r.reference for r in records])
        rewards = self.rewards.score(answers).total
        drawn = [Drawn(t, c.finished, float(r)) for t, c, r in zip(texts, completions, rewards, strict=True)]
        return [drawn[start : start + samples] for start in range(0, len(drawn), samples)]


@dataclass
class Harvest:
    """What has been drawn so far."""

    prompts: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    """Of all answers drawn."""
    finished: int = 0

    def add(self, record: Prompt, answers: Sequence[Drawn], config: Sample) -> None:
        self.prompts += 1
        self.rewards += [answer.reward for answer in answers]
        self.finished += sum(answer.finished for answer in answers)
        for answer in chosen(answers, keep=config.keep, least=config.least, unfinished=config.unfinished):
            messages = [*record.messages, {"role": "assistant", "content": answer.text}]
            self.rows.append({"messages": messages, "reward": round(answer.reward, 6), "prompt_number": self.prompts - 1})

    def save(self, folder: Path) -> None:
        write(folder / "drawn.json", json.dumps(vars(self)))


def run(job: Job, config: Sample, hardware: Hardware) -> Result:
    """Draw, score, choose; leave `chats.jsonl`."""
    path = job.inputs["model"].path
    tokenizer = load_tokenizer(path)
    chat.check_template(tokenizer)
    model = load_causal_lm(path, hardware)
    check_fit(model, tokenizer, path)
    rewards = build_rewards(config.rewards, job, tokenizer, hardware)
    context = min(context_of(model), rewards.context or context_of(model))
    prompts, notes = read_prompts(job, config, tokenizer, context - config.sampling.max_new_tokens)
    engine = Transformers(model, hardware.micro_batch if isinstance(hardware.micro_batch, int) else None, choose_precision(hardware).dtype)
    sampler = Sampler(engine, rewards, tokenizer, config.sampling, job.seed)
    with interruptible() as stop, watching(job):
        harvest = reap(job, config, sampler, prompts, stop)
    if not harvest.rows:
        highest = max(harvest.rewards)
        raise DataError(
            f"no answer of {len(harvest.rewards):,} was kept (highest reward {highest:.3g}): lower `least` or raise sampling.max_new_tokens"
        )
    publish_chats(job.artifact, harvest.rows)
    metrics = measured(harvest, config)
    rows: list[list[str | float | None]] = [[name.replace("_", " "), value] for name, value in metrics.items()]
    return Result(metrics=metrics, tables=[Table(title="Sampled answers", columns=["", "value"], rows=rows)], notes=notes)


def read_prompts(job: Job, config: Sample, tokenizer: Any, room: int) -> tuple[list[tuple[int, Prompt, list[int]]], list[str]]:
    """Prompts with their numbers and ids, oldest exchanges dropped where they are too long. Raises DataError if none fits."""
    records, notes = read(job, "prompts", config.prompts, Prompt)
    fitted = chat.fit_prompts(tokenizer, [record.messages for record in records], room)
    prompts = [
        (number, Prompt(found[0], record.reference, record.extra), found[1])
        for number, (record, found) in enumerate(zip(records, fitted, strict=True))
        if found is not None
    ]
    if not prompts:
        raise DataError(f"no prompt fits into the {room} tokens that the context leaves beside sampling.max_new_tokens")
    left = len(records) - len(prompts)
    return prompts, notes + (
        [f"{left:,} prompts do not fit into {room} tokens even without their oldest turns, and are left out"] if left else []
    )


def reap(job: Job, config: Sample, sampler: Sampler, prompts: Sequence[tuple[int, Prompt, list[int]]], stop: Any) -> Harvest:
    """All prompts, part by part, from the newest checkpoint on. Raises Interrupted after a checkpoint where `stop()` asks for it."""
    saver, record = Saver(job.folder / "checkpoints", job.checkpoints), Metrics(job.folder)
    harvest = resumed(saver.folder)
    record.rewind(harvest.prompts)
    part = max(1, ANSWERS_AT_ONCE // config.samples)
    every = job.checkpoints.every_steps or max(1, len(prompts) // 5)
    sealed = harvest.prompts
    while harvest.prompts < len(prompts):
        these = prompts[harvest.prompts : harvest.prompts + part]
        for (_, prompt, _), answers in zip(these, sampler.draw(these, config.samples), strict=True):
            harvest.add(prompt, answers, config)
        record.log(harvest.prompts, len(prompts), reward=float(np.mean(harvest.rewards)), kept=len(harvest.rows))
        asked = stop()
        if asked or saver.is_due() or harvest.prompts - sealed >= every:
            saver.save(harvest.prompts, harvest.save)
            sealed = harvest.prompts
        if asked and harvest.prompts < len(prompts):
            saver.finish()
            raise Interrupted(f"stopped after {harvest.prompts:,} of {len(prompts):,} prompts; the same command goes on")
    saver.finish()
    return harvest


def write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def resumed(folder: Path) -> Harvest:
    newest = checkpoints.latest(folder)
    return Harvest() if newest is None else Harvest(**json.loads((newest / "drawn.json").read_text(encoding="utf-8")))


def measured(harvest: Harvest, config: Sample) -> dict[str, float]:
    """What was drawn and what was kept of it."""
    kept = [row["reward"] for row in harvest.rows]
    return {
        "answers": float(len(harvest.rewards)),
        "kept": float(len(kept)),
        "prompts_kept": len({row["prompt_number"] for row in harvest.rows}) / harvest.prompts,
        "reward": float(np.mean(harvest.rewards)),
        "reward_kept": float(np.mean(kept)),
        "eos_rate": harvest.finished / len(harvest.rewards),
        # The bound for the best of n; of those kept after it, further ones are nearer.
        "kl_bound": best_of_kl(config.samples),
    }


def publish_chats(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    def fill(partial: Path) -> Artifact:
        kept = ({key: value for key, value in row.items() if key != "prompt_number"} for row in rows)
        write(partial / "chats.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
        return Artifact(kind="dataset")

    publish(folder, fill)

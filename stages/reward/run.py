"""The reward-model stage: from pairs of a chosen and a rejected answer to a model that scores answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import TrainingArguments

from data.chat import check_template
from data.errors import DataError
from stages.adapters.start import begin
from stages.contract import Hardware, Job, Result
from stages.core.arguments import arguments, check_shared, launched
from stages.core.artifacts import save_artifact
from stages.core.baselines import BagOfWords
from stages.core.checkpoints import Score
from stages.core.interrupt import interruptible
from stages.core.models import Precision, check_fit, choose_precision, context_of, device_of, load_start, load_tokenizer, without_dropout
from stages.core.rows import Shape
from stages.core.training import train
from stages.core.workload import AUTO_TOKENS, divisor
from stages.reward.config import Reward
from stages.reward.learning import Order, PairTraining, collate
from stages.reward.metrics import (
    Judged,
    accuracy_metrics,
    calibration_metrics,
    length_rule,
    probe_metrics,
    reliability_table,
    reward_metrics,
    slices,
)
from stages.reward.model import score_pairs, teach, untaught
from stages.reward.pairs import Held, answers, divide, encode, judged, longer, read_preferences
from stages.reward.rows import Pair

CONTROL_PAIRS = 10_000
"""Training pairs that the bag-of-words control sees at most: it keeps them all in memory."""


def run(job: Job, config: Reward, hardware: Hardware) -> Result:
    """Read the pairs, train from the SFT model, judge on held-out pairs, leave the model with its mean and deviation."""
    check_shared(config.workload(), launched())
    path = job.inputs["model"].path
    precision = choose_precision(hardware)
    tokenizer, model = load_tokenizer(path), load_start(path, hardware, config.adapter, "SEQ_CLS")
    check_template(tokenizer)
    check_fit(model, tokenizer, path)
    if tokenizer.pad_token_id is None:
        raise DataError(f"{path}: the tokenizer has no pad token, and a score is read at the last token that is no padding; add one first")
    start = begin(model, config.adapter, "SEQ_CLS", job=job, tokenizer=tokenizer)
    model = start.model
    data = read(job, config, tokenizer, min(config.max_tokens or context_of(model), context_of(model)))
    print(f"{precision}; {len(data.training):,} pairs to learn from, {len(data.held_out):,} held out", flush=True)
    model = teach(without_dropout(start.model))
    with interruptible() as stop:
        trainer = trainer_of(model, data, job, config, precision, stop)
        steps = train(trainer, tokenizer)
        held_out = judged(data.held_out, score_pairs(model, data.held_out))
        control, told = controls(data)
        metrics = {**judge(held_out), **control, **start.metrics, **trainer.trouble.metrics()}
        if data.probes:
            metrics |= probe_metrics(judged(data.probes, score_pairs(model, data.probes)), metrics["reward_std"])
        statistics: dict[str, Any] = {name: metrics[name] for name in ("reward_mean", "reward_std")}
        trainer.finish(lambda: save_artifact(untaught(model), tokenizer, job.artifact, kind="reward-model", kept=start.kept, **statistics))
    return Result(
        steps=steps,
        metrics=metrics,
        tables=[slices(held_out), reliability_table(held_out)],
        notes=[*data.notes, told, *start.notes, str(precision), *trainer.notes()],
    )


def read(job: Job, config: Reward, tokenizer: Any, max_tokens: int) -> Held:
    """Training and held-out pairs as ids. Raises DataError."""
    data, notes = read_preferences(config.data, [job.files.get(f"data.{n}", []) for n in range(len(config.data))])
    given = read_preferences(config.validation, [job.files.get(f"validation.{n}", []) for n in range(len(config.validation))])
    training, held_out = divide(data, given[0], config.held_out)
    learned, shortened = encode(tokenizer, training, max_tokens)
    kept, also_shortened = encode(tokenizer, held_out, max_tokens)
    if config.margin:
        notes += margins_noted(learned)
    probes, about_probes = read_preferences(config.probes, [job.files.get(f"probes.{n}", []) for n in range(len(config.probes))])
    asked, cut_probes = encode(tokenizer, probes, max_tokens) if probes else ([], [])
    notes += [*given[1], *shortened, *(f"held out: {note}" for note in also_shortened), *about_probes, *cut_probes]
    return Held(learned, kept, asked, notes)


def margins_noted(pairs: Sequence[Pair]) -> list[str]:
    """What of the pairs states no margin. Raises DataError if none of them states one, or if one asks for the rejected answer to win."""
    without = sum(pair.margin is None for pair in pairs)
    if without == len(pairs):
        raise DataError("margin: true, but no pair has a `margin` column (nor a ranked list with scores); leave it out or add the column")
    if (wrong := next((pair.margin for pair in pairs if pair.margin is not None and pair.margin < 0), None)) is not None:
        raise DataError(
            f"margin: found {wrong:g}, wanted at least 0: the chosen answer is the better one, so swap the two or leave margins out"
        )
    return [f"{without:,} of {len(pairs):,} pairs state no margin; theirs is 0"] if without else []


def shape_of(pairs: Sequence[Pair], config: Reward, hardware: Hardware) -> Shape:
    """How the pairs are cut into steps and forward passes, once `check_shared` has found that the processes can share them."""
    own = config.batch_pairs // launched()
    long_pair = int(np.quantile([pair.tokens for pair in pairs], 0.9))
    most = AUTO_TOKENS[device_of(hardware).type] // long_pair if hardware.micro_batch == "auto" else hardware.micro_batch
    micro = divisor(own, most)
    return Shape(max(1, round(config.epochs * len(pairs) / config.batch_pairs)), config.batch_pairs, micro, own // micro)


def trainer_of(model: Any, data: Held, job: Job, config: Reward, precision: Precision, stop: Any) -> PairTraining:
    pairs = data.training
    shape = shape_of(pairs, config, job.hardware)
    return PairTraining(
        model,
        TrainingArguments(**arguments(job, config.optimizer, **shape.forwards(), precision=precision)),
        train_dataset=Order(pairs, count=shape.steps * shape.rows_per_step, seed=job.seed),
        data_collator=collate,
        job=job,
        settings=config.optimizer,
        stop=stop,
        score=Score(
            "held_out_loss", lambda: calibration_metrics(judged(data.held_out, score_pairs(model, data.held_out)))["held_out_loss"]
        ),
        centre=config.centre,
        smoothing=config.label_smoothing,
        margin=config.margin,
    )


def judge(held_out: Judged) -> dict[str, float]:
    """Everything that held-out pairs say about the model."""
    return {**accuracy_metrics(held_out), **calibration_metrics(held_out), **reward_metrics(held_out)}


def controls(data: Held) -> tuple[dict[str, float], str]:
    """What is reached without reading, by the length of the answers alone, and by their words without order or prompt; and which length wins."""
    rule, by_length = length_rule(longer(data.training), longer(data.held_out))
    words = BagOfWords(*answers(data.training[:CONTROL_PAIRS]))
    metrics = {"length_baseline": by_length, "bag_of_words": words.accuracy(*answers(data.held_out))}
    return metrics, f"length_baseline: {rule}, as in the training pairs"

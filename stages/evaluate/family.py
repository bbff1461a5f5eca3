"""The family of models: who they are, and what each is asked while it is loaded. One model is in memory at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.chat import check_template
from data.formats import Text
from stages.contract import Hardware, Job, StageError
from stages.core.causal import teach, total_nats, untaught
from stages.core.generation import Transformers
from stages.core.logprobs import check_head, completion_logprobs
from stages.core.models import check_fit, context_of, device_of, load_causal_lm, load_tokenizer
from stages.core.rows import PackedRows
from stages.core.statistics import Floats
from stages.core.text import text_documents
from stages.core.workload import AUTO_TOKENS
from stages.evaluate.config import Evaluate, called
from stages.evaluate.exam import Exam, Paper, sit


@dataclass
class Member:
    """One model, and what it did in the exams."""

    name: str
    path: Path
    tokenizer: Any = None
    text: dict[str, float] = field(default_factory=dict)
    """Perplexity and the like."""
    papers: list[Paper] = field(default_factory=list)
    """By exam."""
    kl: list[Floats | None] = field(default_factory=list)
    """By exam: log-ratio to the baseline, as the mean over each prompt's answers, (N) nats; None where the tokens are not the same."""


def members(job: Job, config: Evaluate) -> tuple[list[Member], Member]:
    """The models of the recipe in their order, and the baseline, which joins them in front if it is none of them."""
    family = [Member(name, job.inputs[f"models.{number}"].path) for number, name in enumerate(called(config.models))]
    if config.baseline is None:
        return family, family[-2] if len(family) > 1 else family[0]
    path = job.inputs["baseline"].path
    known = next((member for member in family if member.path == path), None)
    baseline = known or Member(called([*config.models, config.baseline])[-1], path)
    return ([] if known else [baseline]) + family, baseline


def examine(member: Member, exams: Sequence[Exam], texts: Sequence[Text], config: Evaluate, hardware: Hardware, samples: int) -> None:
    """Load the model, measure it on the text, let it answer every exam, and let it go."""
    model, member.tokenizer = load_causal_lm(member.path, hardware), load_tokenizer(member.path)
    check_fit(model, member.tokenizer, member.path)
    if texts:
        member.text = perplexity(model, member.tokenizer, texts, hardware)
    if exams:
        check_template(member.tokenizer)
    engine = Transformers(model, hardware.micro_batch if isinstance(hardware.micro_batch, int) else None)
    for exam in exams:
        paper = sit(exam, engine, member.tokenizer, config.sampling, samples, context_of(model))
        member.papers.append(paper)


def perplexity(model: Any, tokenizer: Any, texts: Sequence[Text], hardware: Hardware) -> dict[str, float]:
    """Perplexity per token and bits per byte on the texts, with the floor where their own entropy is known. Measured as in pretraining."""
    context = context_of(model)
    rows = PackedRows(text_documents(tokenizer, [text.text for text in texts], context), capacity=context, seed=0)
    nats, tokens = total_nats(teach(model), rows, max(1, AUTO_TOKENS[device_of(hardware).type] // context))
    untaught(model)
    size = sum(len(text.text.encode()) for text in texts)
    found = {"perplexity": math.exp(nats / tokens), "bits_per_byte": nats / math.log(2) / size}
    known = [text.nats for text in texts if text.nats is not None]
    return found | ({"perplexity_floor": math.exp(sum(known) / tokens)} if len(known) == len(texts) else {})


def measure_distance(family: Sequence[Member], baseline: Member, config: Evaluate, hardware: Hardware) -> list[str]:
    """Fill in each member's `kl`: how much likelier its own sampled answers are to it than to the baseline (k1, whose mean is the KL). Gives a note where
    the baseline's log-probabilities, and so the KL of any other member, cannot be told."""
    model = load_causal_lm(baseline.path, hardware)
    notes = []
    try:
        check_head(model)
    except StageError as error:
        notes.append(f"kl is not told: {error}")
    for member in family:
        if member is baseline:
            member.kl = [np.zeros(len(paper.prompt_ids)) for paper in member.papers]
            continue
        alike = not notes and member.tokenizer.get_vocab() == baseline.tokenizer.get_vocab()
        member.kl = [log_ratios(model, paper, config.answers, config.sampling.temperature) if alike else None for paper in member.papers]
    return notes


def log_ratios(baseline: Any, paper: Paper, answers: int, temperature: float) -> Floats:
    """log p(answer) under the model that gave it, less that under the baseline, at the sampling temperature: (N) nats, as the mean over the first `answers` of each prompt.

    The same answers whose reward is told, so that reward and KL of a model are of one sample.
    """
    given = [answer for sample in paper.sampled[:answers] for answer in sample]
    theirs_BT, _ = completion_logprobs(baseline, paper.prompt_ids * answers, [answer.ids for answer in given], temperature)
    ours_B = np.array([math.fsum(answer.logprobs) for answer in given])
    ratios_B = ours_B - theirs_BT.double().sum(dim=1).numpy()
    return np.asarray(ratios_B.reshape(answers, -1).mean(axis=0), dtype=np.float64)

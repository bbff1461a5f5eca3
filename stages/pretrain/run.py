"""Pretraining: text to a base model."""

import math
import os
from typing import Any

from transformers import Trainer, TrainingArguments

from stages.adapters.start import begin
from stages.contract import Hardware, Job, Result
from stages.core.arguments import arguments, check_shared, launched, shape_of_run
from stages.core.artifacts import save_artifact
from stages.core.baselines import bigram_perplexity
from stages.core.causal import CausalTraining, describe, teach, total_nats, untaught
from stages.core.checkpoints import Score
from stages.core.config import Llama
from stages.core.extension import existing
from stages.core.interrupt import interruptible
from stages.core.kernels import fused
from stages.core.models import choose_precision, context_of, load_tokenizer, new_llama
from stages.core.rows import Mapped, PackedRows, Shape, collate
from stages.core.samples import Asked, Sampling, room_for_answers
from stages.core.text import Corpus, corpora
from stages.core.training import train
from stages.pretrain.config import Pretrain

BEGINNING = 16
"""Most tokens of a text that it is to go on with for `samples`."""
CONTROL_TOKENS = 50_000_000
"""Training tokens beyond which the bigram control is left out: it sorts them all in memory."""


class Training(CausalTraining, Trainer):  # type: ignore[misc]
    """transformers' loop, this project's loss and checkpoints."""


def run(job: Job, config: Pretrain, hardware: Hardware) -> Result:
    """Learn to predict text; measure on held-out text; leave a model that anyone can load."""
    precision = choose_precision(hardware)
    model, tokenizer, added = starting_point(job, config, hardware)
    start = begin(model, config.adapter, "CAUSAL_LM", job=job, tokenizer=tokenizer)
    model = start.model
    context = context_of(model)
    check_shared(config.workload(), launched(), context)
    text = corpora(job, tokenizer, config.data, config.validation, config.held_out, temperature=config.temperature)
    documents, held_out = text.train.documents(context), text.held_out.documents(context)
    rows, held_rows = PackedRows(documents, capacity=context, seed=job.seed), PackedRows(held_out, capacity=context, seed=0)
    shape = shape_of_run(hardware, config.workload(), capacity=context)
    notes = [*text.notes, *added, *start.notes, str(precision), describe(rows, shape, model)]
    print(*notes, sep="\n", flush=True)
    with interruptible() as stop:
        trainer = Training(
            model=teach(model),
            args=TrainingArguments(**arguments(job, config.optimizer, **shape.forwards(), precision=precision)),
            train_dataset=rows.resized(shape.steps * shape.rows_per_step),
            data_collator=collate,
            job=job,
            settings=config.optimizer,
            stop=stop,
            score=Score("validation_loss", lambda: measured(model, held_rows, shape, text.held_out)["validation_loss"]),
            sampling=Sampling(job, asked(held_out, tokenizer, context, config.samples), tokenizer, {tokenizer.eos_token_id}, precision),
        )
        steps = train(trainer, tokenizer)
        metrics = measured(model, held_rows, shape, text.held_out)
        trainer.finish(lambda: save_artifact(untaught(model), tokenizer, job.artifact, kind="causal-lm", kept=start.kept))
    control, told = bigram_control(documents, held_out, len(tokenizer))
    return Result(
        steps=steps, metrics={**metrics, **control, **start.metrics, **trainer.trouble.metrics()}, notes=[*notes, *told, *trainer.notes()]
    )


def asked(documents: Mapped, tokenizer: Any, context: int, count: int) -> list[Asked]:
    """The beginnings of the first held-out documents that are long enough."""
    found: list[Asked] = []
    for index in range(len(documents.lengths)):
        if len(found) == count:
            break
        ids = documents[index].ids.tolist()
        given = min(BEGINNING, len(ids) // 2, context - room_for_answers(context))
        if given:
            texts = (ids[:given], ids[given : given + room_for_answers(context)])
            prompt, reference = (tokenizer.decode(part, skip_special_tokens=True) for part in texts)
            found.append(Asked(prompt, ids[:given], reference))
    return found


def starting_point(job: Job, config: Pretrain, hardware: Hardware) -> tuple[Any, Any, list[str]]:
    """A new model for the given tokenizer, or an existing one with its own or an extension of it. Raises DataError where the two do not fit."""
    if isinstance(config.model, Llama):
        tokenizer = load_tokenizer(job.inputs["tokenizer"].path)
        tokenizer.model_max_length = config.model.context
        # Under ZeRO-3 the first process's weights are those of all.
        bare = hardware.zero == 3 and config.adapter is None and os.environ.get("RANK", "0") != "0"
        return fused(new_llama(config.model, tokenizer, job.seed, bare=bare), hardware), tokenizer, []
    return existing(job, hardware, config.adapter)


def measured(model: Any, rows: PackedRows, shape: Shape, held_out: Corpus) -> dict[str, float]:
    """Loss and perplexity per token, bits per byte, and what a perfect model would reach where the records say it."""
    nats, tokens = total_nats(model, rows, shape.micro_batch)
    loss = nats / tokens
    metrics = {"validation_loss": loss, "perplexity": math.exp(loss), "bits_per_byte": nats / math.log(2) / held_out.bytes}
    return metrics if held_out.nats is None else {**metrics, "perplexity_floor": math.exp(held_out.nats / tokens)}


def bigram_control(documents: Mapped, held_out: Mapped, vocab: int) -> tuple[dict[str, float], list[str]]:
    """What is reached on the same held-out tokens by counting which token follows which, and a note where it is left out."""
    tokens = int(documents.lengths.sum())
    if tokens > CONTROL_TOKENS:
        return {}, [f"no bigram control: {tokens:,} training tokens are more than the {CONTROL_TOKENS:,} that it counts"]
    ids, wanted = ([part[index].ids for index in range(len(part.lengths))] for part in (documents, held_out))
    return {"bigram_perplexity": bigram_perplexity(ids, wanted, vocab)}, []

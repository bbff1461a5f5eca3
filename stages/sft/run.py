"""Supervised fine-tuning: chats to a model that answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from data.chat import Tokens, check_template, end_ids, render_all
from data.errors import DataError
from data.formats import Chat
from stages.adapters.quantised import unrounded
from stages.adapters.start import begin
from stages.contract import Hardware, Job, Result
from stages.core.arguments import arguments, check_shared, launched, shape_of_run
from stages.core.artifacts import save_artifact
from stages.core.causal import CausalTraining, describe, teach, total_nats, untaught
from stages.core.checkpoints import Score
from stages.core.extension import existing, tokenizer_of
from stages.core.interrupt import interruptible
from stages.core.models import choose_precision, context_of
from stages.core.rows import Document, PackedRows, collate
from stages.core.samples import Sampling
from stages.core.training import train
from stages.sft.chats import asked, mask_share, read_chats
from stages.sft.config import SFT
from stages.sft.controls import behind_other_prompts


class Training(CausalTraining, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with this project's rows, loss and checkpoints.

    Its own preparation, collator and loss stay unused: they pad or take whole rows into the head, and on a CPU its head scores every
    position. It wants a `datasets.Dataset` when it is made, so that it gets one row there and the real rows after.
    """

    def __init__(self, *, rows: PackedRows, **kwargs: Any) -> None:
        stand_in = Dataset.from_dict({"input_ids": [[0, 0]], "labels": [[0, 0]]})
        with unrounded(kwargs["model"]):
            super().__init__(train_dataset=stand_in, data_collator=collate, **kwargs)
        self.train_dataset = rows
        teach(self.model)  # after TRL has put its own forward pass in place


def run(job: Job, config: SFT, hardware: Hardware) -> Result:
    """Learn the assistant's words and the ends of its turns; measure on held-out chats; leave a model that anyone can load."""
    precision = choose_precision(hardware)
    tokenizer = tokenizer_of(job)
    check_template(tokenizer)
    model, tokenizer, added = existing(job, hardware, config.adapter)
    start = begin(model, config.adapter, "CAUSAL_LM", job=job, tokenizer=tokenizer)
    model = start.model
    context = min(config.max_tokens or context_of(model), context_of(model))
    check_shared(config.workload(), launched(), context)
    chats = read_chats(job, config, tokenizer, context)
    held_out = held_out_documents(tokenizer, chats.held_out, config, context)
    control, told = behind_other_prompts(tokenizer, chats.held_out, learn=config.learn, max_tokens=context, seed=job.seed)
    rows = PackedRows(chats.train, capacity=context, seed=job.seed)
    shape = shape_of_run(hardware, config.workload(), capacity=context, rows=round(config.epochs * rows.per_epoch))
    notes = [*chats.notes, *added, *told, *start.notes, str(precision), describe(rows, shape, model)]
    print(*notes, sep="\n", flush=True)
    with interruptible() as stop:
        trainer = Training(
            model=model,
            args=SFTConfig(
                **arguments(job, config.optimizer, **shape.forwards(), precision=precision),
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            rows=rows.resized(shape.steps * shape.rows_per_step),
            processing_class=tokenizer,
            job=job,
            settings=config.optimizer,
            stop=stop,
            score=Score("validation_loss", lambda: measured(model, held_out, [], context, shape.micro_batch)["validation_loss"]),
            sampling=Sampling(job, asked(chats.held_out, tokenizer, context, config.samples), tokenizer, end_ids(tokenizer), precision),
        )
        steps = train(trainer, tokenizer)
        metrics = measured(model, held_out, documents_of(control), context, shape.micro_batch)
        trainer.finish(lambda: save_artifact(untaught(model), tokenizer, job.artifact, kind="causal-lm", kept=start.kept))
    return Result(
        steps=steps,
        metrics={**metrics, "mask_share": mask_share(chats.train), **start.metrics, **trainer.trouble.metrics()},
        notes=[*notes, *trainer.notes()],
    )


def held_out_documents(tokenizer: Any, chats: list[Chat], config: SFT, context: int) -> list[Document]:
    """Each held-out chat as ids and mask. Raises DataError if nothing is left to measure."""
    rendered = render_all(tokenizer, chats, learn=config.learn, max_tokens=context)
    if not rendered.tokens:
        raise DataError(
            f"none of the {len(chats):,} held-out chats has an answer that fits into {context} tokens; raise max_tokens or shorten them"
        )
    return documents_of(rendered.tokens)


def documents_of(chats: Sequence[Tokens]) -> list[Document]:
    return [Document(np.array(chat.ids, np.int32), np.array(chat.learn, np.bool_)) for chat in chats]


def measured(model: Any, held_out: list[Document], control: list[Document], context: int, micro_batch: int) -> dict[str, float]:
    """Loss per learned token of the held-out answers, behind their own prompts and behind others."""
    metrics = {}
    for name, documents in (("validation_loss", held_out), ("shuffled_prompt_loss", control)):
        if documents:
            nats, tokens = total_nats(model, PackedRows(documents, capacity=context, seed=0), micro_batch)
            metrics[name] = nats / tokens
    return metrics

"""Settings of the corpus stage. Torch-free."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from data.cleaning.config import Cleaning
from data.config import Context, Source, Wants
from stages.core.config import Sources, StageConfig


class Corpus(StageConfig, Cleaning):
    """Clean text once for all stages that read it: repair, rules, copies, exams. Its `path: documents` is what tokenizer and pretrain take."""

    makes: ClassVar[str] = "dataset"
    kind: Literal["corpus"] = "corpus"
    data: Annotated[Sources, Wants("text")]
    """Text to clean. Weights are applied where the result is read."""
    against: Annotated[tuple[Source, ...], Wants("text")] = ()
    """Exams and held-out sets that must not be trained on: documents that share `overlap` words in a row with one are removed."""
    processes: Annotated[int | None, Field(gt=0), Context()] = None
    """Processes that clean; one a core if left out. The result does not depend on it."""

    def leaves(self) -> tuple[str, ...]:
        return ("documents",)

    def measures(self) -> tuple[str, ...]:
        return ("documents", "characters", "documents_read", "kept")

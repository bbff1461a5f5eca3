"""Where each stage of a run goes on the Hub: a repository each, or one for the family with a branch or a folder for each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.publish.errors import ChoiceError
from pipeline.publish.finished import Finished
from pipeline.publishing import MAIN, Publishing


@dataclass(frozen=True)
class Place:
    """One stage's place."""

    repository: str
    revision: str = MAIN
    folder: str = ""
    """Inside the repository; empty for all of it."""

    def __str__(self) -> str:
        return self.repository + (f"/{self.folder}" if self.folder else "") + (f"@{self.revision}" if self.revision != MAIN else "")

    @property
    def arguments(self) -> str:
        """What `from_pretrained` must be told beside the repository's name."""
        return "".join(
            f', {name}="{value}"'
            for name, value in (("revision", self.revision if self.revision != MAIN else ""), ("subfolder", self.folder))
            if value
        )

    def inside(self, folder: str) -> "Place":
        """A folder of this place."""
        return replace(self, folder=f"{self.folder}/{folder}" if self.folder else folder)

    @property
    def is_shared(self) -> bool:
        """Whether other stages lie in the same repository."""
        return bool(self.folder)


def places(run: Path, owner: str, stages: Sequence[Finished], how: Publishing) -> dict[str, Place]:
    """By fingerprint. Raises ChoiceError for a name that the Hub would refuse."""
    found = {}
    for one in stages:
        repository, revision, folder = how.address(owner, run.resolve().name, one.name)
        found[one.fingerprint] = Place(_repository(repository), revision, folder)
    return found


def _repository(name: str) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ChoiceError(f"'{name}' cannot be a repository's name: {error}") from error
    return name

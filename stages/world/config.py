"""Settings of the embedded world. Torch-free."""

from typing import ClassVar, Literal

from stages.core.config import StageConfig


class World(StageConfig):
    """Generate the embedded default data: a small world of people and facts for every later stage, with known entropy and known truth."""

    makes: ClassVar[str] = "dataset"
    kind: Literal["world"] = "world"

"""Settings of adapters (peft). Torch-free."""

from typing import Literal

from pydantic import Field

from data.config import Spec


class Lora(Spec):
    """Low-rank adapters (Hu et al. 2021) on linear layers."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(16, gt=0)
    """Rank of the update."""
    alpha: float = Field(32.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["attention", "all-linear"] | tuple[str, ...] = "all-linear"
    """Which linear layers: the attention's, all but the head, or by name. Embeddings and head are refused where they are tied."""
    hand_over: Literal["merge"] = "merge"
    """How the next stage takes the adapter: merged into its base in fp32."""


Adapter = Lora

"""The few numbers that size the world."""

from dataclasses import dataclass

from data.world.vocabulary import ATTRIBUTES, NAMES


@dataclass(frozen=True)
class Spec:
    """How large the world is; the defaults are those of the demo."""

    seed: int = 0
    people: int = 32
    attributes: int = 5
    """Facts told of each person: town, work, pet, food, instrument, in this order."""
    values: int = 8
    """Possible values of an attribute, so that a guess is right once in `values` times."""
    held_share: float = 0.25
    """Share of the facts that stories state but no question in training asks."""
    documents: int = 20_000
    documents_heldout: int = 400
    chats: int = 3_000
    chats_heldout: int = 300
    pairs: int = 32_000
    pairs_heldout: int = 1_000
    pairs_unasked: int = 400
    """Pairs of a right and a wrong answer about the facts of the exam: a probe of reward models, never to be learned."""
    prompts: int = 1_000
    exam: int = 480
    """Exam questions, one half about facts never asked, the other in phrasings never used."""
    noise_temperature: float = 1.0
    """A label prefers the better answer with probability sigmoid(utility difference / noise_temperature)."""

    def __post_init__(self) -> None:
        bounds = {"people": (2, len(NAMES)), "attributes": (1, len(ATTRIBUTES)), "values": (2, min(len(a.values) for a in ATTRIBUTES))}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: found {getattr(self, name)}, wanted {low} to {high}")
        for name in (
            "documents",
            "documents_heldout",
            "chats",
            "chats_heldout",
            "pairs",
            "pairs_heldout",
            "pairs_unasked",
            "prompts",
            "exam",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, wanted at least 1")
        if not 0.0 < self.held_share < 1.0:
            raise ValueError(f"held_share: found {self.held_share}, wanted more than 0 and less than 1")
        if self.noise_temperature <= 0.0:
            raise ValueError(f"noise_temperature: found {self.noise_temperature}, wanted more than 0")

"""Who lives in the world, what is true of them, and which of it is never asked."""

import math
from dataclasses import dataclass

from data.world.draws import generator
from data.world.spec import Spec
from data.world.vocabulary import ATTRIBUTES, NAMES, Attribute


@dataclass(frozen=True)
class Fact:
    """One thing that is true of one person."""

    person: str
    attribute: Attribute
    value: str


@dataclass(frozen=True)
class Register:
    """Everything that is true in the world."""

    people: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    """Cut down to the values that exist in this world."""
    truth: dict[tuple[str, str], str]
    """Value of each (person, attribute name)."""
    held: frozenset[tuple[str, str]]
    """The (person, attribute name) that stories state and no question in training asks."""

    def fact(self, person: str, attribute: Attribute) -> Fact:
        return Fact(person, attribute, self.truth[person, attribute.name])

    def facts(self, *, held: bool) -> list[Fact]:
        """The facts that are held out, or those that may be asked, in the order of the register."""
        pairs = [(person, attribute) for person in self.people for attribute in self.attributes]
        return [self.fact(person, attribute) for person, attribute in pairs if ((person, attribute.name) in self.held) == held]


def draw_register(spec: Spec) -> Register:
    """Values are independent and uniform. Held-out facts are spread evenly: by attribute, and so that few people have several."""
    random = generator(spec.seed, "register")
    people = tuple(random.sample(NAMES, spec.people))
    attributes = tuple(
        Attribute(a.name, a.values[: spec.values], a.statements, a.questions, a.held_question) for a in ATTRIBUTES[: spec.attributes]
    )
    truth = {(person, attribute.name): random.choice(attribute.values) for person in people for attribute in attributes}
    # Walk around people and attributes together, so that both are held out evenly: nobody loses all facts before others lose some. People
    # held out entirely are not answered at this size, and that would measure something else. Both cycles meet again after their least
    # common multiple; one step further then gives new facts.
    count = min(len(truth) - 1, max(1, round(spec.held_share * len(truth))))
    order = random.sample(people, len(people))
    cycle = math.lcm(len(order), len(attributes))
    held = frozenset((order[i % len(order)], attributes[(i + i // cycle) % len(attributes)].name) for i in range(count))
    return Register(people, attributes, truth, held)

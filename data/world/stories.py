"""Pretraining text: short documents that state the facts of the register, held-out ones among them.

Three kinds. A portrait states some facts of one person. A meeting brings two people together. A rumour makes a claim about one person, says
whether it is true, and puts it right. Rumours are few: a model of this size learns nothing from them about telling true from false (verdicts on
held-out claims stayed at chance with nine times as many), and every false claim makes recall harder.

Different choices always give different texts, so a document's `nats` is -ln p(document | register), its end included.
"""

from dataclasses import dataclass

from data.world.draws import Draws, generator
from data.world.register import Fact, Register
from data.world.spec import Spec
from data.world.vocabulary import Attribute

KINDS = {"portrait": 0.65, "meeting": 0.3, "rumour": 0.05}
INTRODUCTIONS = ("Meet {name}.", "This is about {name}.", "Here is what we know of {name}.")
CLAIMS = ("Some say that", "There is a rumour that", "I once heard that")
PLACES = ("at the market", "on the bridge", "near the station", "in the park")
PARTINGS = ("They became friends.", "They never met again.", "They went home in the rain.")


@dataclass(frozen=True)
class Document:
    """A story and the information that it holds for a reader who knows the register."""

    text: str
    nats: float


def tell(register: Register, draws: Draws) -> str:
    """One document of a random kind."""
    kind = list(KINDS)[draws.index(list(KINDS.values()))]
    return {"portrait": _portrait, "meeting": _meeting, "rumour": _rumour}[kind](register, draws)


def _portrait(register: Register, draws: Draws) -> str:
    """An introduction and one to three different facts."""
    person = draws.pick(register.people)
    sentences = [draws.pick(INTRODUCTIONS).format(name=person)]
    untold = list(register.attributes)
    for _ in range(1 + draws.pick(range(min(3, len(untold))))):
        attribute = draws.pick(untold)
        untold.remove(attribute)
        sentences.append(_sentence(register.fact(person, attribute), draws))
    return " ".join(sentences)


def _meeting(register: Register, draws: Draws) -> str:
    """Two people, and one fact of each."""
    first = draws.pick(register.people)
    second = draws.pick([person for person in register.people if person != first])
    sentences = [f"One day {first} met {second} {draws.pick(PLACES)}."]
    sentences += [_sentence(register.fact(person, draws.pick(register.attributes)), draws) for person in (first, second)]
    return " ".join([*sentences, draws.pick(PARTINGS)])


def _rumour(register: Register, draws: Draws) -> str:
    """A claim, true half of the time; a false one is put right."""
    fact = register.fact(draws.pick(register.people), draws.pick(register.attributes))
    statement = _statement(fact.attribute, draws)
    claim = draws.pick(CLAIMS)
    if draws.chance(0.5):
        return f"{claim} {state(fact, statement)} That is true."
    wrong = Fact(fact.person, fact.attribute, draws.pick([value for value in fact.attribute.values if value != fact.value]))
    correction = _statement(fact.attribute, draws)
    return f"{claim} {state(wrong, statement)} That is wrong. {capitalised(state(fact, correction))}"


def _statement(attribute: Attribute, draws: Draws) -> str:
    return draws.pick(attribute.statements)


def _sentence(fact: Fact, draws: Draws) -> str:
    return capitalised(state(fact, _statement(fact.attribute, draws)))


def state(fact: Fact, statement: str) -> str:
    """The statement with its name and value; lower case at its start where it does not begin with the name."""
    return statement.format(name=fact.person, value=fact.value)


def capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def documents(register: Register, spec: Spec, *, heldout: bool) -> list[Document]:
    """Independent documents of one distribution; the held-out ones measure perplexity, not generalisation to new facts."""
    random = generator(spec.seed, "stories", "heldout" if heldout else "train")
    told = []
    for _ in range(spec.documents_heldout if heldout else spec.documents):
        draws = Draws(random)
        told.append(Document(tell(register, draws), draws.nats))
    return told

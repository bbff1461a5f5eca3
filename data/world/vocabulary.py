"""The words of the world: names, attributes with their values and sentences, and the manners of an answer.

Two rules keep the world learnable by a model of under a million parameters. Every name and value is preceded by a space wherever it occurs,
because byte-level BPE gives 'Jane' and ' Jane' different tokens. And no value, name or manner word has a second use, so that an answer can be
graded by its words.
"""

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Alma Boris Clara David Edith Felix Greta Henry Irene Jacob Karin Lucas Maria Nadia Oscar Paula "
    "Quinn Ralph Susan Tomas Ursula Victor Wendy Xenia Yusuf Zelda Agnes Bruno Cecil Diana Emil Flora "
    "Gilda Hugo Ivan Jane Klaus Laura Moses Nora Otto Petra Rosa Simon Tanja Ulric Vera Walter "
    "Anton Bella Carlo Doris Ernst Fiona Georg Hanna Isaac Julia Kevin Linda Marco Norma Oliver Pablo"
)


@dataclass(frozen=True)
class Attribute:
    """One kind of fact: its values, the sentences that state it and the questions that ask for it."""

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    held_question: str
    """A phrasing that only the exam uses: a new combination of two halves that training knows, since new words would measure guessing."""


ATTRIBUTES = (
    Attribute(
        "town",
        _words("Rome Oslo Cairo Lima Paris Tokyo Delhi Quebec"),
        ("{name} lives in {value}.", "{name} has a home in {value}.", "the home of {name} is in {value}."),
        (
            "Where does {name} live?",
            "In which town does {name} have a home?",
            "Where is the home of {name}?",
            "In which town is the home of {name}?",
        ),
        "In which town does {name} live?",
    ),
    Attribute(
        "work",
        _words("baker pilot doctor farmer painter lawyer teacher sailor"),
        ("{name} works as a {value}.", "{name} earns money as a {value}.", "{name} is a {value} by trade."),
        ("What does {name} work as?", "What is the trade of {name}?", "How does {name} earn money?", "As what does {name} earn money?"),
        "As what does {name} work?",
    ),
    Attribute(
        "pet",
        _words("cat dog parrot rabbit hamster turtle goat pony"),
        ("{name} keeps a {value}.", "{name} looks after a {value}.", "the pet of {name} is a {value}."),
        (
            "Which pet does {name} keep?",
            "What is the pet of {name}?",
            "Which animal does {name} keep?",
            "Which animal does {name} look after?",
        ),
        "Which pet does {name} look after?",
    ),
    Attribute(
        "food",
        _words("soup rice pasta curry salad bread fish cheese"),
        ("{name} likes to eat {value}.", "{name} often orders {value}.", "the favourite food of {name} is {value}."),
        (
            "What does {name} like to eat?",
            "Which food does {name} often order?",
            "What is the favourite food of {name}?",
            "What does {name} often order?",
        ),
        "Which food does {name} like to eat?",
    ),
    Attribute(
        "music",
        _words("piano violin flute drum harp guitar cello trumpet"),
        ("{name} plays the {value}.", "{name} practises the {value}.", "the instrument of {name} is the {value}."),
        (
            "What does {name} play?",
            "What does {name} practise?",
            "What is the instrument of {name}?",
            "Which instrument does {name} practise?",
        ),
        "Which instrument does {name} play?",
    ),
)

VALUES = {attribute.name: attribute.values for attribute in ATTRIBUTES}

OPENINGS = {
    "polite": ("Gladly,", "With pleasure,", "Of course, friend,"),
    "plain": ("Well,", "So,", "I believe"),
    "rude": ("Ugh,", "Listen, fool,", "Stupid question,"),
}
"""How an answer of each manner begins. A name or a lower-case statement may follow each of them."""

POLITE_WORDS = frozenset({"gladly", "pleasure", "friend", "kindly", "welcome"})
RUDE_WORDS = frozenset({"ugh", "fool", "stupid"})

RAMBLINGS = (
    "Many people here could say the same.",
    "There is much more to tell about this.",
    "It has been so for a long time.",
    "One hears it again and again these days.",
    "Nobody around here would deny any of it.",
)
"""Sentences that add nothing but length, at least seven words each."""

SHORT_WORDS = 11
"""An answer of at most this many words is short: without ramblings it has 5 to 10 words, with one 12 or more."""

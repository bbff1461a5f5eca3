"""Grading an answer by the register: the ground truth that no trained model stands between."""

import re
from collections.abc import Mapping, Sequence

from data.world.vocabulary import NAMES, POLITE_WORDS, RUDE_WORDS, SHORT_WORDS, VALUES

_NAMES = frozenset(name.lower() for name in NAMES)


def grade(prompt: Sequence[Mapping[str, str]], completion: str, finished: bool, reference: Mapping[str, object]) -> dict[str, float]:
    """0 or 1 for each virtue of an answer, and for all of them together.

    `finished` says whether the model ended its turn by itself. `reference` is that of a prompt or exam row. An answer is `correct` if it
    names the right value, no other value of that attribute and nobody but the person asked about; `polite` if it has a polite word and no
    rude one; `short` if it has at most SHORT_WORDS words; `finished` if the turn was ended after a full sentence. The prompt is part of
    the signature because a grader of another world may need it; this one's reference says it all.
    """
    words = set(re.findall(r"[a-z]+", completion.lower()))
    value, person = str(reference["value"]).lower(), str(reference["person"]).lower()
    values = {other.lower() for other in VALUES[str(reference["attribute"])]}
    virtues = {
        "correct": words & values == {value} and words & _NAMES <= {person},
        "polite": bool(words & POLITE_WORDS) and not words & RUDE_WORDS,
        "short": 0 < len(completion.split()) <= SHORT_WORDS,
        "finished": finished and completion.rstrip().endswith((".", "!", "?")),
    }
    return {name: float(held) for name, held in (virtues | {"good": all(virtues.values())}).items()}

"""Pairs labelled from a utility that is known: what each word is worth, plus what ending is worth where that is asked for."""

import json
import math
import random

WORDS = [f"w{letter}" for letter in "abcdefghijklmnop"]
WORTH = {word: (number - 7.5) / 5 for number, word in enumerate(WORDS)}
ASKED = ["which", "one", "now", "then"]


def utility(answer):
    return sum(WORTH[word] for word in answer.split())


def rows(count, seed=0):
    """Preference rows in which the better answer is preferred with probability sigmoid(difference of utilities)."""
    source, made = random.Random(seed), []
    for _ in range(count):
        prompt = " ".join(source.choices(ASKED, k=source.randint(1, 6)))
        first, second = (" ".join(source.choices(WORDS, k=source.randint(1, 4))) for _ in range(2))
        if source.random() >= 1 / (1 + math.exp(utility(second) - utility(first))):
            first, second = second, first
        made.append(
            {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": first}],
                "rejected": [{"role": "assistant", "content": second}],
                "margin": utility(first) - utility(second),
                "utility_chosen": utility(first),
                "utility_rejected": utility(second),
                "group": "short" if len((first + second).split()) < 5 else "long",
            }
        )
    return made


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path

"""A story's `nats` is exactly -ln of its probability: shown by enumerating every story of a small world."""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence

from data.world import Spec
from data.world.draws import Draws, generator
from data.world.register import Register, draw_register
from data.world.stories import documents, tell

TINY = Spec(seed=1, people=2, attributes=2, values=2, documents=1, documents_heldout=4000)


class Replay(Draws):
    """Follows given choices as far as they go, then takes the first option each time; remembers how many options there were."""

    def __init__(self, choices: Sequence[int]) -> None:
        super().__init__(random.Random(0))
        self.given, self.taken, self.options = list(choices), [], []
        self.probability = 1.0

    def index(self, weights: Sequence[float]) -> int:
        chosen = self.given[len(self.taken)] if len(self.taken) < len(self.given) else 0
        self.taken.append(chosen)
        self.options.append(len(weights))
        self.probability *= weights[chosen] / sum(weights)
        return chosen


def every_story(register: Register) -> Iterator[tuple[str, float]]:
    """All sequences of choices, like counting with digits of varying base."""
    choices: list[int] | None = []
    while choices is not None:
        replay = Replay(choices)
        yield tell(register, replay), replay.probability
        choices = next(
            (
                [*replay.taken[:place], replay.taken[place] + 1]
                for place in reversed(range(len(replay.taken)))
                if replay.taken[place] + 1 < replay.options[place]
            ),
            None,
        )


def test_all_stories_of_a_small_world_are_different_and_their_probabilities_sum_to_one() -> None:
    stories = list(every_story(draw_register(TINY)))
    assert len({text for text, _ in stories}) == len(stories) > 1000
    assert math.isclose(math.fsum(probability for _, probability in stories), 1.0, rel_tol=1e-9)


def test_nats_are_the_log_probability_of_the_text() -> None:
    register = draw_register(TINY)
    probability = dict(every_story(register))
    told = documents(register, TINY, heldout=True)
    for story in told:
        assert math.isclose(story.nats, -math.log(probability[story.text]), rel_tol=1e-9)
    entropy = -math.fsum(p * math.log(p) for p in probability.values())
    spread = math.sqrt(math.fsum(p * (math.log(p) + entropy) ** 2 for p in probability.values()) / len(told))
    assert abs(sum(story.nats for story in told) / len(told) - entropy) < 4 * spread


def test_stories_come_as_often_as_their_probability_says() -> None:
    register = draw_register(TINY)
    told = Counter(story.text for story in documents(register, TINY, heldout=True))
    probability = dict(every_story(register))
    common = [text for text, p in probability.items() if p > 0.002]
    assert common
    for text in common:
        expected = probability[text] * TINY.documents_heldout
        assert abs(told[text] - expected) < 5 * math.sqrt(expected)


def test_two_worlds_of_one_seed_have_the_same_people_whatever_their_files() -> None:
    assert draw_register(TINY) == draw_register(Spec(**{**TINY.__dict__, "documents": 7}))
    assert generator(1, "a").random() != generator(1, "b").random() != generator(2, "b").random()

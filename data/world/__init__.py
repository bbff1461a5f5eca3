"""The embedded default data: a small world, made from a seed, in which the effect of every stage can be measured.

A register of people and facts is drawn first (`register`). Stories state its facts for pretraining and carry their own entropy (`stories`,
`draws`). Chats ask about most of the facts in several manners (`chats`), pairs of answers are labelled from a known utility with known noise
(`pairs`), and `truth` grades an answer by the register alone. Some facts are stated but never asked: they are the exam.

Standard library only, so that a recipe can be planned and its data written without torch.
"""

from data.world.spec import Spec
from data.world.truth import grade
from data.world.writing import write

__all__ = ["Spec", "grade", "write"]

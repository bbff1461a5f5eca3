"""What a typed line means."""

from pathlib import Path

import pytest

from pipeline.chat.cast import Cast
from pipeline.chat.session import Session, shown
from pipeline.errors import RecipeError
from stages.core.dialogue import Drawing, Said

CAST = Cast({"base": Path("b"), "chat": Path("c"), "policy": Path("p")}, {"judge": Path("j")})


def session() -> Session:
    return Session(CAST, "chat")


def talk(one: Session, line: str, answer: str = "Yes.") -> list[dict[str, str]]:
    [ask], _ = one.read(line)
    one.heard(ask, Said(model=ask.model, text=answer, tokens=2, ended="by itself", logprob=-1.0))
    return ask.messages


def test_messages_carry_what_was_said_before() -> None:
    one = session()
    assert talk(one, "Hi") == [{"role": "user", "content": "Hi"}]
    assert [message["content"] for message in talk(one, "And?")] == ["Hi", "Yes.", "And?"]


def test_comparing_puts_the_last_message_to_several_and_changes_nothing() -> None:
    one = session()
    talk(one, "Hi")
    before = list(one.turns)
    asks, _ = one.read("/compare base policy base")
    assert [ask.model for ask in asks] == ["base", "policy"]
    assert all(ask.messages == [{"role": "user", "content": "Hi"}] for ask in asks)
    assert len({ask.drawing.seed for ask in asks}) == 1, "the same luck for all"
    assert [ask.model for ask in one.read("/compare")[0]] == ["base", "chat", "policy"]
    assert one.turns == before


def test_again_draws_anew_and_takes_the_place_of_the_last_answer() -> None:
    one = session()
    talk(one, "Hi", "first")
    [ask], _ = one.read("/again")
    assert (ask.messages, ask.drawing.seed) == ([{"role": "user", "content": "Hi"}], 2)
    one.heard(ask, Said(model="chat", text="second", tokens=2, ended="by itself", logprob=-1.0))
    assert [turn["content"] for turn in one.turns] == ["Hi", "second"]


def test_what_the_model_is_told_stands_first_and_is_no_turn() -> None:
    one = session()
    one.read("/system Be brief.")
    assert talk(one, "Hi")[0] == {"role": "system", "content": "Be brief."}
    assert [turn["role"] for turn in one.turns] == ["user", "assistant"]
    one.read("/system")
    assert talk(one, "Hi")[0]["role"] == "user"


def test_sampling_is_set_by_name_and_shown() -> None:
    one = session()
    assert one.read("/set temperature 0.5")[1].startswith("temperature 0.5")
    one.read("/set top_k 3")
    assert one.drawing == Drawing(temperature=0.5, top_k=3)
    assert one.read("Hi")[0][0].drawing.top_k == 3


def test_another_stage_goes_on_with_what_was_said() -> None:
    one = session()
    talk(one, "Hi")
    assert one.read("/stage policy")[1] == "now talking to policy"
    [ask], _ = one.read("And?")
    assert (ask.model, len(ask.messages)) == ("policy", 3)
    one.read("/reset")
    assert len(one.read("And?")[0][0].messages) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/compair base", "did you mean 'compare'?"),
        ("/stage polcy", "did you mean 'policy'?"),
        ("/stage judge", "judges and does not talk"),
        ("/compare base", "say something first"),
        ("/again", "say something first"),
        ("/set temprature 1", "did you mean 'temperature'?"),
        ("/set temperature hot", "temperature: found 'hot', wanted a valid number"),
        ("/set top_p 3", "top_p: found '3', wanted less than or equal to 1"),
        ('/set top_p "', "cannot be read"),
    ],
)
def test_a_command_that_makes_no_sense_is_answered_with_what_would(line: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says.replace("?", r"\?")):
        session().read(line)


def test_an_answer_is_shown_with_its_worth() -> None:
    said = Said(model="chat", text="Yes", tokens=4, ended="at the limit", logprob=-2.0, rewards={"judge": 0.5}, forgotten=2)
    phrases = list(shown(said))
    assert phrases[:4] == ["4 tokens", "cut at the limit", "log p -2.00 (-0.50 a token)", "judge +0.50"]
    assert "2 oldest messages" in phrases[4]

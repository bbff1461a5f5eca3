"""Answers for a terminal: the model's own, weighed by its own probabilities and by the judges as PPO would."""

import io
import json

import pytest
import torch

from data import chat
from data.errors import DataError
from stages.contract import WRONG_INPUT, Hardware
from stages.core.dialogue import Ask, Drawing, Opening
from stages.core.rewards import end_of_turn, last_token_scores
from stages.core.talk import Table, serve
from tests.pipeline.chat import tiny_run
from tests.stages.tiny import causal_lm, saved, tokenizer_of

HELLO = [{"role": "user", "content": "hello you"}]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tokenizer_of(tiny_run.WORDS)
    model, judge = causal_lm(tokenizer), tiny_run.judge(tokenizer)
    saved(model, tokenizer, folder / "chat")
    (saved(judge, tokenizer, folder / "judge") / "artifact.json").write_text(
        json.dumps({"kind": "reward-model", "reward_mean": 0.5, "reward_std": 2.0})
    )
    opening = Opening(models={"chat": folder / "chat"}, judges={"judge": folder / "judge"}, hardware=Hardware(gpus=0))
    return opening, tokenizer, model, judge


def said(family, messages=HELLO, stop=lambda: False, **drawing):
    pieces = []
    found = Table(family[0]).said(Ask(model="chat", messages=messages, drawing=Drawing(**drawing)), pieces.append, stop)
    return found, pieces


def test_without_chance_the_answer_is_the_likeliest_token_each_time(family):
    _, tokenizer, model, judge = family
    found, pieces = said(family, temperature=0, max_new_tokens=6)
    ids = list(prompt := chat.render_prompt(tokenizer, HELLO))
    ends, logprob = chat.end_ids(tokenizer), 0.0
    with torch.no_grad():
        for _ in range(6):
            logits = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            ids.append(int(logits.argmax()))
            logprob += float(logits.max())
            if ids[-1] in ends:
                break
    finished = ids[-1] in ends
    words = ids[len(prompt) : -1] if finished else ids[len(prompt) :]
    assert found.text == tokenizer.decode(words, skip_special_tokens=True)
    assert found.tokens == len(ids) - len(prompt)
    assert found.logprob == pytest.approx(logprob, abs=1e-4)
    assert "".join(pieces) == found.text
    query = [*ids[:-1], end_of_turn(tokenizer)] if finished else ids
    assert found.rewards["judge"] == pytest.approx((float(last_token_scores(judge, [query])[0]) - 0.5) / 2.0, abs=1e-5)


def test_a_seed_draws_the_same_and_options_are_obeyed(family):
    one, again, other = (said(family, seed=seed, max_new_tokens=12)[0] for seed in (1, 1, 2))
    assert one == again != other
    greedy = said(family, temperature=0, max_new_tokens=12)[0]
    assert said(family, top_k=1, max_new_tokens=12)[0].text == greedy.text
    assert said(family, top_p=1e-6, max_new_tokens=12)[0].text == greedy.text


def test_stopped_it_keeps_what_it_has(family):
    answered = []
    found, _ = said(family, stop=lambda: bool(answered.append(1)) or len(answered) > 2, max_new_tokens=40, seed=5)
    assert (found.ended, found.tokens <= 3) == ("stopped", True)


def test_a_long_conversation_loses_its_oldest_turns_and_says_so(family):
    turns = [{"role": role, "content": "cat dog " * 6} for _ in range(6) for role in ("user", "assistant")]
    found, _ = said(family, [*turns, *HELLO], max_new_tokens=8)
    assert found.forgotten > 0


def test_a_model_without_a_template_goes_on_with_the_bare_text(family, tmp_path):
    opening, tokenizer, model, _ = family
    plain = tokenizer_of(tiny_run.WORDS)
    plain.chat_template = None
    saved(model, plain, tmp_path / "plain")
    table = Table(opening.model_copy(update={"models": {"chat": tmp_path / "plain"}}))
    assert table.talker("chat").prompt(HELLO, 50)[1] == tokenizer("hello you", add_special_tokens=False)["input_ids"]
    assert set(table.said(Ask(model="chat", messages=HELLO, drawing=Drawing(max_new_tokens=4)), lambda _: None, lambda: False).rewards) == {
        "judge"
    }
    turns = [{"role": "user", "content": "cat dog " * 60}, {"role": "assistant", "content": "dog"}]
    assert table.said(
        Ask(model="chat", messages=[*turns, *HELLO], drawing=Drawing(max_new_tokens=4)), lambda _: None, lambda: False
    ).forgotten
    with pytest.raises(DataError, match=r"the message has 401 tokens and the model room for \d+ beside its answer"):
        table.talker("chat").prompt([{"role": "user", "content": "cat dog " * 200}], 50)


def test_what_cannot_be_answered_is_told_and_the_next_ask_is_heard(family):
    opening = family[0]
    asks = [
        Ask(model="chat", messages=[{"role": "user", "content": "cat " * 200}]),
        Ask(model="chat", messages=HELLO, drawing=Drawing(max_new_tokens=3)),
    ]
    out = io.StringIO()
    lines = "".join(f"{one.model_dump_json()}\n" for one in (opening, *asks))
    serve(io.StringIO(lines), out, lambda: False, lambda: None)
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    whole = len(chat.render_prompt(family[1], asks[0].messages))
    assert events[0]["reason"].startswith(f"the message has {whole} tokens and the model room for")
    assert events[0]["code"] == WRONG_INPUT, "and not that the model failed"
    assert events[-1]["event"] == "said"

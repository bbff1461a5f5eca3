"""Reward models are asked about the ids that they were trained on, and their score is read at the last real token."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.chat import render, render_prompt
from data.errors import DataError
from stages.contract import Input
from stages.core.answers import Answers
from stages.core.config import RewardPart, names_of
from stages.core.generation import Completion
from stages.core.rewards import ModelScorer, Rewards, RuleScorer, build_rewards, combined, end_of_turn, ended, last_token_scores
from stages.core.rules import load_rule
from tests.stages.ppo.small import WORDS, ppo_job, reward_model
from tests.stages.tiny import CPU, tokenizer_of


def answers_of(tokenizer, texts, finished):
    prompts = [[{"role": "user", "content": "say the word yes"}] for _ in texts]
    completions = []
    for prompt, text, done in zip(prompts, texts, finished, strict=True):
        ids = render(tokenizer, [*prompt, {"role": "assistant", "content": text}]).ended().ids[len(render_prompt(tokenizer, prompt)) :]
        completions.append(Completion(ids if done else ids[:-1], done, [0.0] * (len(ids) - (not done))))
    return Answers(prompts, [render_prompt(tokenizer, p) for p in prompts], completions, texts, [None] * len(texts))


def classifier_of(tokenizer, folder):
    from stages.core.models import load_reward_model

    return load_reward_model(reward_model(tokenizer, folder), CPU)


@pytest.mark.parametrize("template", ["turns", "chatml"])
def test_the_query_is_the_trained_conversation_and_ends_only_if_the_answer_did(tmp_path, template):
    tokenizer = tokenizer_of(WORDS, template)
    scorer = ModelScorer(None, end_of_turn(tokenizer))
    answers = answers_of(tokenizer, ["yes", "no no"], [True, False])
    trained = [
        render(tokenizer, [*p, {"role": "assistant", "content": t}]).ended().ids
        for p, t in zip(answers.prompts, answers.texts, strict=True)
    ]
    assert scorer.queries(answers) == [trained[0], trained[1][:-1]]


def test_an_answer_ended_by_eos_is_closed_as_the_reward_model_knows_it():
    tokenizer = tokenizer_of(WORDS)
    end = end_of_turn(tokenizer)
    assert ended(Completion([7, tokenizer.eos_token_id], True, [0.0, 0.0]), end) == [7, end]
    assert ended(Completion([7, 8], False, [0.0, 0.0]), end) == [7, 8]


def test_sampled_ids_are_scored_as_sampled_and_not_cut_anew():
    """Two tokens that their text would merge into one stay two."""
    tokenizer = tokenizer_of(["ab", "a", "b"])
    ids = [tokenizer.convert_tokens_to_ids(piece) for piece in ("a", "b")]
    assert tokenizer(tokenizer.decode(ids), add_special_tokens=False).input_ids != ids
    answers = Answers([[]], [[3]], [Completion(ids, False, [0.0, 0.0])], ["ab"], [None])
    assert ModelScorer(None, 4).queries(answers) == [[3, *ids]]


def test_another_tokenizer_goes_through_the_text():
    policy, judge = tokenizer_of(WORDS), tokenizer_of(WORDS[::-1], "chatml")
    scorer = ModelScorer(None, end_of_turn(judge), judge)
    answers = answers_of(policy, ["yes", "no"], [True, False])
    trained = [
        render(judge, [*p, {"role": "assistant", "content": t}]).ended().ids for p, t in zip(answers.prompts, answers.texts, strict=True)
    ]
    assert scorer.queries(answers) == [trained[0], trained[1][:-1]]


@pytest.mark.parametrize("pad", ["own", "eos"])
def test_padding_never_changes_a_score_and_the_end_token_always_does(tmp_path, pad):
    tokenizer = tokenizer_of(WORDS)
    model = classifier_of(tokenizer, tmp_path / "judge")
    end = end_of_turn(tokenizer)
    if pad == "eos":
        model.config.pad_token_id = end
    rows = [[3, 9, 10, end], [3, 9, 10], [3, 9, 10, 11, 12, 13, end], [5]]
    together = last_token_scores(model, rows)
    alone = torch.cat([last_token_scores(model, [row]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, last_token_scores(model, rows, micro_batch=1), atol=1e-5, rtol=0)
    assert abs(together[0] - together[1]) > 1e-4
    with torch.no_grad():
        own = model(input_ids=torch.tensor([rows[1]])).logits[0, 0]
    torch.testing.assert_close(together[1], own, atol=1e-5, rtol=0)


def test_scores_are_standardised_clipped_weighted_and_each_part_is_seen(tmp_path):
    tokenizer = tokenizer_of(WORDS)
    job = ppo_job(tmp_path / "run", model_reward=True)
    parts = (
        RewardPart(model="judge", weight=2.0, clip=None),
        RewardPart(rule="length:1", weight=0.5),
        RewardPart(rule="length:2", clip=0.25),
    )
    rewards = build_rewards(parts, job, tokenizer, CPU)
    answers = answers_of(tokenizer, ["yes", "no no"], [True, False])
    found = rewards.score(answers)
    model = classifier_of(tokenizer, tmp_path / "judge")
    raw = last_token_scores(model, ModelScorer(model, end_of_turn(tokenizer)).queries(answers)).double().numpy()
    expected = (raw - 0.3) / 2.0
    np.testing.assert_allclose(found.parts["judge"], expected, atol=1e-6)
    assert found.parts["length"].tolist() == [1.0, 0.0]
    assert found.parts["length_2"].tolist() == [0.25, 0.25]
    np.testing.assert_allclose(found.total, 2.0 * expected + [0.5, 0.0] + np.array([0.25, 0.25]), atol=1e-6)


@pytest.mark.parametrize(("how", "expected"), [("mean", [1.0, 2.0]), ("worst", [0.0, 2.0]), ("uncertainty", [1.0 - 0.25 * 2 / 3, 2.0])])
def test_an_ensemble_is_the_mean_the_worst_or_the_mean_less_the_disagreement(how, expected):
    scores_KB = np.array([[0.0, 2.0], [1.0, 2.0], [2.0, 2.0]])
    np.testing.assert_allclose(combined(scores_KB, how, 0.25), expected)


@pytest.mark.parametrize("how", ["mean", "worst"])
def test_an_ensemble_of_reward_models_scores_with_each_of_them(tmp_path, how):
    tokenizer = tokenizer_of(WORDS)
    job = ppo_job(tmp_path / "run")
    judges = {n: reward_model(tokenizer, tmp_path / f"judge{n}", seed=n, mean=0.1 * n) for n in range(2)}
    inputs = {f"rewards.0.models.{n}": Input(reference="j", kind="reward-model", path=path, fingerprint="0") for n, path in judges.items()}
    part = RewardPart(models=("a", "b"), combine=how, clip=None)
    answers = answers_of(tokenizer, ["yes", "no no"], [True, False])
    found = build_rewards((part,), job.model_copy(update={"inputs": inputs}), tokenizer, CPU).score(answers)
    alone = []
    for n in range(2):
        one = job.model_copy(update={"inputs": {"rewards.0.model": inputs[f"rewards.0.models.{n}"]}})
        alone.append(build_rewards((RewardPart(model="j", clip=None),), one, tokenizer, CPU).score(answers).total)
    np.testing.assert_allclose(found.total, np.mean(alone, axis=0) if how == "mean" else np.min(alone, axis=0))
    np.testing.assert_allclose(found.parts["ensemble_spread"], np.std(alone, axis=0))


def test_a_part_is_one_thing_and_settings_that_would_do_nothing_are_refused():
    for wrong, says in (
        ({}, "found none"),
        ({"model": "a", "rule": "exact"}, "found model and rule"),
        ({"models": ["a"]}, "no ensemble"),
        ({"model": "a", "combine": "worst"}, "there are none"),
        ({"models": ["a", "b"], "uncertainty": 1.0}, "set that, or leave uncertainty out"),
    ):
        with pytest.raises(ValueError, match=says):
            RewardPart.model_validate(wrong)


def test_answers_beyond_the_clip_of_a_part_that_counts_are_marked():
    answers = answers_of(tokenizer_of(WORDS), ["yes", "no no"], [True, False])
    length = RuleScorer(lambda prompt, text, *_: float(len(text)))
    parts = [("far", RewardPart(rule="exact", clip=4.0), length), ("shown", RewardPart(rule="exact", clip=1.0, weight=0.0), length)]
    assert Rewards(parts).score(answers).clipped.tolist() == [False, True]


def test_a_score_is_clipped_on_both_sides():
    answers = answers_of(tokenizer_of(WORDS), ["yes", "no no"], [True, False])
    far = RuleScorer(lambda prompt, text, *_: 9.0 if text == "yes" else -9.0)
    found = Rewards([("far", RewardPart(rule="exact", clip=4.0, weight=-0.5), far)]).score(answers)
    assert found.total.tolist() == [-2.0, 2.0]
    assert found.clipped.tolist() == [True, True]


def test_no_part_is_called_as_a_number_of_the_whole_is():
    parts = [RewardPart(rule=rule) for rule in ("mine.py:std", "exact", "exact", "mine.py:clipped")]
    assert names_of(parts) == ["std_0", "exact", "exact_2", "clipped_3"]


def test_a_rule_that_grades_several_things_shows_them_all():
    answers = answers_of(tokenizer_of(WORDS), ["yes"], [True])
    rewards = Rewards([("mine", RewardPart(rule="exact"), RuleScorer(lambda *_: {"good": 1.0, "kind": 0.5}))])
    found = rewards.score(answers)
    assert found.total.tolist() == [1.0]
    assert {name: values.tolist() for name, values in found.parts.items()} == {"mine": [1.0], "mine_good": [1.0], "mine_kind": [0.5]}


def test_a_rule_that_names_its_grades_otherwise_from_one_answer_to_the_next_is_told():
    tokenizer = tokenizer_of(WORDS)
    grades = {"yes": {"good": 1.0, "kind": 0.5}, "no": {"kind": 0.5, "good": 1.0}, "cat": {"good": 0.0}, "dog": 0.5}
    scorer = RuleScorer(lambda prompt, text, *_: grades[text])
    assert scorer.score(answers_of(tokenizer, ["yes", "no"], [True] * 2))["kind"].tolist() == [0.5, 0.5]
    for text, found in (("cat", "good for 'cat'"), ("dog", "a number alone for 'dog'")):
        with pytest.raises(DataError, match=f"gave good, kind for its first answer and {found}"):
            scorer.score(answers_of(tokenizer, [text], [True]))


def test_a_score_that_is_not_a_number_is_named():
    answers = answers_of(tokenizer_of(WORDS), ["yes"], [True])
    model = SimpleNamespace(score=lambda answers: {"": np.array([np.nan])})
    with pytest.raises(DataError, match="'mine'"):
        Rewards([("mine", RewardPart(model="mine"), model)]).score(answers)


@pytest.mark.parametrize("grade", [float("nan"), None, "much", {"good": 1.0, "kind": float("inf")}, {"good": 1.0, "kind": None}])
def test_a_rule_that_gives_no_finite_number_is_told_with_the_answer(grade):
    """Also beside its score: a mean that is not finite would end the stage only with its result."""
    answers = answers_of(tokenizer_of(WORDS), ["yes"], [True])
    with pytest.raises(DataError, match=r"rule 'mine\.py:fair' gave .*(nan|None|much|kind: inf).* for 'yes'; wanted a finite number"):
        RuleScorer(lambda *_: grade, "rule 'mine.py:fair'").score(answers)


def test_a_score_that_no_clip_has_touched_is_not_marked():
    """A rule of 0 and 1 under `clip: 1` would else be said to lie at its clip whenever it is content."""
    answers = answers_of(tokenizer_of(WORDS), ["yes", "no no"], [True, False])
    parts = [("right", RewardPart(rule="exact", clip=1.0), RuleScorer(lambda *_: 1.0))]
    assert not Rewards(parts).score(answers).clipped.any()


def test_rules_get_prompt_text_finish_and_reference():
    seen = []
    answers = answers_of(tokenizer_of(WORDS), ["yes"], [False])
    RuleScorer(lambda *arguments: seen.append(arguments) or 1.0).score(answers)
    assert seen == [(answers.prompts[0], "yes", False, None)]
    assert load_rule("exact")(*seen[0]) == 0.0

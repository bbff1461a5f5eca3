import math

import pytest
import torch

from data.errors import DataError
from data.formats import Preference
from stages.core.models import without_dropout
from stages.reward.config import Reward
from stages.reward.learning import Order, collate, smoothed_loss
from stages.reward.model import classifier_of, score_pairs, teach, untaught
from stages.reward.pairs import Named, divide, encode
from tests.stages.reward.planted import rows, utility
from tests.stages.tiny import tokenizer_of


def loss_of(chosen, rejected, margin=None, *, centre=0.0, smoothing=0.0):
    margins = None if margin is None else torch.tensor([margin])
    return float(smoothed_loss(torch.tensor([[chosen, rejected]]), margins, centre=centre, smoothing=smoothing)[0])


def test_an_identical_pair_costs_ln_2_with_and_without_label_smoothing():
    assert loss_of(1.3, 1.3) == pytest.approx(math.log(2))
    assert loss_of(1.3, 1.3, smoothing=0.2) == pytest.approx(math.log(2))


def test_the_loss_is_the_bradley_terry_likelihood_of_the_label():
    assert loss_of(2.0, 0.5) == pytest.approx(-math.log(1 / (1 + math.exp(-1.5))))
    assert loss_of(2.0, 0.5, 1.0) == pytest.approx(math.log(1 + math.exp(-0.5)))
    assert loss_of(2.0, 0.5, centre=0.1) == pytest.approx(loss_of(2.0, 0.5) + 0.1 * 2.5**2)


def test_centring_costs_scale_and_without_it_the_likeliest_rewards_are_the_utilities():
    """Rewards that are the true utilities times a scale: the loss is least at 1, with the default centring at about 0.8, whatever the number of pairs."""
    utilities = torch.tensor([[utility(row[side][0]["content"]) for side in ("chosen", "rejected")] for row in rows(12000, seed=1)])
    scales = torch.linspace(0.5, 1.5, 101)

    def best(centre):
        losses = torch.stack([smoothed_loss(scale * utilities, None, centre=centre, smoothing=0.0).mean() for scale in scales])
        return float(scales[losses.argmin()])

    assert best(0.0) == pytest.approx(1.0, abs=0.06)
    assert best(Reward.model_fields["centre"].default) == pytest.approx(0.8, abs=0.06)


def test_label_smoothing_is_the_mean_loss_over_both_labels_and_is_least_at_the_noises_own_odds():
    assert loss_of(2.0, 0.5, 0.3, centre=0.1, smoothing=0.2) == pytest.approx(
        0.8 * loss_of(2.0, 0.5, 0.3, centre=0.1) + 0.2 * loss_of(0.5, 2.0, -0.3, centre=0.1)
    )
    best = math.log(0.8 / 0.2)
    assert loss_of(best, 0.0, smoothing=0.2) < min(loss_of(best + 0.1, 0.0, smoothing=0.2), loss_of(best - 0.1, 0.0, smoothing=0.2))


def test_every_epoch_is_another_order_of_all_pairs_and_depends_on_the_seed_alone(pairs):
    order = Order(pairs, count=3 * len(pairs), seed=1)
    epochs = [[id(order[index]) for index in range(len(pairs) * epoch, len(pairs) * (epoch + 1))] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(map(id, pairs)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    backwards = Order(pairs, count=3 * len(pairs), seed=1)
    assert [id(backwards[index]) for index in reversed(range(len(order)))] == [id(order[index]) for index in reversed(range(len(order)))]
    assert [id(Order(pairs, count=6, seed=2)[index]) for index in range(6)] != epochs[0]


def test_a_taught_model_scores_pairs_as_it_scores_conversations_and_an_untaught_one_is_as_before(classifier, pairs):
    alone = [[float(classifier(input_ids=torch.tensor([ids])).logits[0, 0].detach()) for ids in (p.chosen, p.rejected)] for p in pairs]
    before = classifier.config._attn_implementation
    taught = teach(classifier)
    torch.testing.assert_close(torch.tensor(score_pairs(taught, pairs)).float(), torch.tensor(alone), atol=1e-5, rtol=0)
    assert "forward" not in vars(untaught(taught))
    assert classifier.config._attn_implementation == before


def test_teaching_leaves_the_score_head_as_it_was(classifier):
    before = classifier.score.weight.detach().clone()
    assert torch.equal(teach(classifier).score.weight, before)


def test_an_adapted_model_trains_its_adapter_and_its_score_head_and_nothing_else(classifier, pairs):
    from stages.adapters.building import add_adapter
    from stages.adapters.config import Lora

    model = teach(add_adapter(classifier, Lora(rank=4), "SEQ_CLS", seed=0))
    batch = collate(pairs)
    scores = model(**{name: batch[name] for name in ("input_ids", "position_ids", "forks", "ends")})
    scores.sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("score" in name for name in trained)
    assert all("score" in name or "lora" in name for name in trained)
    assert classifier_of(model) is not model


def test_no_dropout_is_left_anywhere(classifier):
    for layer in classifier.model.layers:
        layer.self_attn.attention_dropout = 0.3
    classifier.train()
    classifier.config.attention_dropout = 0.3
    ids = torch.tensor([[3, 4, 5, 6]])
    assert not torch.equal(classifier(input_ids=ids).logits, classifier(input_ids=ids).logits)
    without_dropout(classifier)
    assert torch.equal(classifier(input_ids=ids).logits, classifier(input_ids=ids).logits)


WORDS = ["one", "two", "three", "four", "yes", "no"]


def named(turns, chosen="yes", rejected="no"):
    prompt = [{"role": "user" if number % 2 == 0 else "assistant", "content": text} for number, text in enumerate(turns)]
    return Named("", Preference(prompt, [{"role": "assistant", "content": chosen}], [{"role": "assistant", "content": rejected}]))


def test_a_prompt_that_is_too_long_loses_its_oldest_turns_and_keeps_its_answers():
    tokenizer = tokenizer_of(WORDS)
    long, short = named(["one two three", "four", "two"]), named(["two"])
    (whole, _), notes = encode(tokenizer, [long, short], 50)
    assert not notes
    (cut, kept), notes = encode(tokenizer, [long, short], len(whole.chosen) - 1)
    assert cut.chosen == kept.chosen
    assert cut.rejected == kept.rejected
    assert "1 of 2 prompts lost their oldest turns" in notes[0]


def test_a_pair_that_cannot_fit_is_left_out_and_counted_and_none_left_is_an_error():
    tokenizer = tokenizer_of(WORDS)
    long, short = named(["one two three four one two three four"]), named(["two"])
    pairs, notes = encode(tokenizer, [long, short], 8)
    assert len(pairs) == 1
    assert "1 of 2 pairs are left out" in notes[0]
    with pytest.raises(DataError, match="no pair of 1 fits into 8 tokens"):
        encode(tokenizer, [long], 8)


def test_pairs_of_one_prompt_are_all_learned_or_all_held_out():
    data = [named([word], chosen, "no") for word in ("one", "two", "three", "four") for chosen in ("yes", "one", "two")]
    training, held_out = divide(data, [], 0.3)
    asked = [{each.record.prompt[0]["content"] for each in part} for part in (training, held_out)]
    assert asked[0]
    assert asked[1]
    assert not asked[0] & asked[1]
    assert divide(data, data[:2], 0.3) == (data, data[:2])


def test_a_ranked_list_counts_as_much_as_one_pair_however_long_it_is(classifier):
    from data.formats import READERS
    from stages.reward.learning import PairTraining
    from stages.reward.pairs import Named

    tokenizer = tokenizer_of(WORDS)
    lists = [{"prompt": "one", "responses": ["two", "three", "four", "yes"]}, {"prompt": "two", "responses": ["yes", "no"]}]
    records = [record for row in lists for record in READERS["ranked"](row)]
    assert [len(records), sum(record.weight for record in records)] == [7, pytest.approx(2.0)]
    pairs, _ = encode(tokenizer, [Named("", record) for record in records], 50)
    model, trainer = teach(classifier), PairTraining.__new__(PairTraining)
    trainer._centre = trainer._smoothing = 0.0
    trainer._margin = False
    batch = collate(pairs)
    assert trainer.items(batch) == pytest.approx(2.0)
    scores = torch.tensor(score_pairs(model, pairs))
    losses = -torch.nn.functional.logsigmoid(scores[:, 0] - scores[:, 1])
    expected = losses[:6].mean() + losses[6]
    assert float(trainer.summed_loss(model, batch).detach()) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("margin", [True, False])
def test_margin_centring_and_smoothing_reach_the_loss(classifier, pairs, margin):
    from dataclasses import replace

    from stages.reward.learning import PairTraining

    pairs = [replace(pair, margin=0.5 * number, weight=1.0 / (1 + number)) for number, pair in enumerate(pairs)]
    model, trainer = teach(classifier), PairTraining.__new__(PairTraining)
    trainer._centre, trainer._smoothing, trainer._margin = 0.1, 0.2, margin
    scores = torch.tensor(score_pairs(model, pairs)).float()
    margins = torch.tensor([pair.margin for pair in pairs]) if margin else None
    expected = smoothed_loss(scores, margins, centre=0.1, smoothing=0.2) @ torch.tensor([pair.weight for pair in pairs])
    assert float(trainer.summed_loss(model, collate(pairs)).detach()) == pytest.approx(float(expected), abs=1e-4)


def test_margins_that_are_asked_for_must_be_there_and_not_negative(pairs):
    from dataclasses import replace

    from stages.reward.run import margins_noted

    with pytest.raises(DataError, match="no pair has a `margin` column"):
        margins_noted(pairs)
    some = [replace(pair, margin=0.5) for pair in pairs[:2]]
    assert margins_noted(some) == []
    assert margins_noted([*some, pairs[2]]) == ["1 of 3 pairs state no margin; theirs is 0"]
    with pytest.raises(DataError, match="found -1"):
        margins_noted([*some, replace(pairs[2], margin=-1.0)])


def test_settings_refuse_what_makes_no_sense():
    for wrong in ({"label_smoothing": 0.5}, {"centre": -1.0}, {"batch_pairs": 0}, {"epochs": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Reward.model_validate({"model": "m", "data": [{"path": "p"}], **wrong})

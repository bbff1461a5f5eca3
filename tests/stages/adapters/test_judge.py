"""Several judges on the policy's base: each scores as it does alone, wherever its folder lies and however often it is asked for."""

import torch

from stages.adapters.bases import Base
from stages.adapters.building import add_adapter
from stages.adapters.config import Lora
from stages.adapters.judge import judge_on
from stages.adapters.start import Kept, Start
from stages.core.artifacts import save_artifact
from stages.core.models import load_causal_lm, load_reward_model
from stages.core.rewards import last_token_scores
from tests.stages.adapters.made import disturbed
from tests.stages.tiny import CPU, causal_lm, saved, tokenizer_of

LORA = Lora(rank=4, hand_over="stack")


def judge(folder, base, tokenizer, seed):
    """A reward model that is an adapter and a head beside its base."""
    model = disturbed(add_adapter(load_reward_model(base, CPU), LORA, "SEQ_CLS", seed=seed, name="judge"), "judge", seed)
    save_artifact(model, tokenizer, folder, kind="reward-model", kept=Kept(["judge"], [LORA], Base(base, str(base))))
    return folder


def test_judges_whose_folders_lie_side_by_side_and_one_that_is_asked_twice_score_as_alone(tmp_path):
    tokenizer = tokenizer_of(["yes", "no", "cat", "dog"])
    base = saved(causal_lm(tokenizer, seed=1), tokenizer, tmp_path / "base")
    one, two = (judge(tmp_path / "judges" / name, base, tokenizer, seed) for seed, name in enumerate(("one", "two"), 1))
    policy = add_adapter(load_causal_lm(base, CPU), LORA, "CAUSAL_LM", name="policy")
    start, rows = Start(policy, LORA, "policy", base=Base(base, str(base))), [[4, 5, 6], [7, 8]]
    found = [judge_on(start, folder) for folder in (one, two, one)]
    scores = [last_token_scores(each, rows) for each in found]
    alone = [last_token_scores(load_reward_model(folder, CPU), rows) for folder in (one, two, one)]
    torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-5)
    assert (scores[0] - scores[1]).abs().min() > 1e-3
    assert len({name for each in found for name in each.names}) == 3

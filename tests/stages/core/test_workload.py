"""What processes can share of a step: one rule, held against dealing the rows out."""

import pytest

from stages.contract import Hardware, StageError
from stages.core.arguments import check_shared, shape_of_run
from stages.core.workload import Workload, divisor, unshared
from stages.ppo.config import PPO
from stages.pretrain.config import Pretrain
from stages.reward.config import Reward

PAIRS = Reward.model_validate({"model": "./m", "data": [{"path": "x"}], "batch_pairs": 12})
TEXT = Pretrain.model_validate({"model": "./m", "data": [{"path": "x"}], "tokens": 10_000, "batch_tokens": 2_100})
ANSWERS = {"model": "./m", "prompts": [{"path": "x"}], "rewards": [{"rule": "length:5"}], "steps": 20}


def test_the_largest_divisor():
    assert [divisor(12, most) for most in (1, 5, 7, 12, 100, 0)] == [1, 4, 6, 12, 12, 1]


@pytest.mark.parametrize("processes", range(1, 30))
def test_even_shares_are_those_that_deal_all_rows_out_and_the_numbers_that_are_told_work(processes: int):
    for rows in range(1, 30):
        for work, context in ((Workload((), "pairs", batch=rows), None), (Workload((), batch=rows * 512 + 17), 512)):
            found = unshared(work, processes, context)
            shares = [len(range(rank, rows, processes)) for rank in range(processes)]
            assert (not found) == (len(set(shares)) == 1 and shares[0] > 0)
            for each in found:
                assert each.fewer < processes
                assert not unshared(work, each.fewer, context)
                assert not unshared(Workload((), work.rows, batch=each.larger), processes, context)


@pytest.mark.parametrize("processes", range(1, 20))
def test_each_process_has_an_answer_of_a_rollout_and_of_an_evaluation(processes: int):
    for batch, minibatches, asked in ((4, 4, 16), (6, 3, 2), (16, 4, 1), (12, 1, 12)):
        config = PPO.model_validate(ANSWERS | {"batch": batch, "minibatches": minibatches, "evaluation_prompts": asked})
        found = unshared(config.workload(), processes, None)
        assert [each.field for each in found] == ["batch"] * (batch < processes) + ["evaluation_prompts"] * (asked < processes)
        mended = {each.field: each.larger for each in found}
        again = PPO.model_validate(config.model_dump() | mended)  # also a multiple of `minibatches`, which the settings ask for
        assert unshared(again.workload(), processes, None) == []
        assert unshared(config.workload(), min([processes, *(each.fewer for each in found)]), None) == []


def test_few_measured_steps_of_ppo_have_a_prompt_for_each_process():
    brief = PPO.model_validate(ANSWERS | {"batch": 8, "evaluation_prompts": 128}).brief(6)
    assert brief is not None
    assert unshared(brief.workload(), 8, None) == []


def test_packed_rows_of_an_unknown_length_are_not_judged():
    assert unshared(TEXT.workload(), 3, None) == []


def test_the_stage_refuses_by_the_same_rule(monkeypatch: pytest.MonkeyPatch):
    told = "batch_tokens: a step of 4 rows of 512 tokens cannot be shared by 3 processes evenly: take 2, or set batch_tokens to 3072"
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(StageError, match=told):
        shape_of_run(Hardware(gpus=0), TEXT.workload(), capacity=512)
    with pytest.raises(
        StageError, match="batch_pairs: a step of 12 pairs cannot be shared by 5 processes evenly: take 4, or set batch_pairs to 15"
    ):
        check_shared(PAIRS.workload(), 5)
    monkeypatch.setenv("WORLD_SIZE", "2")
    shape = shape_of_run(Hardware(gpus=0, micro_batch=1), TEXT.workload(), capacity=512)
    assert (shape.steps, shape.rows_per_step, shape.micro_batch, shape.accumulation) == (19 // 4, 4, 1, 2)
    assert shape_of_run(Hardware(gpus=0), TEXT.workload(), capacity=512, rows=9).steps == 3

"""fp16 learns what fp32 learns, by a loss scale that is found, kept in checkpoints and the same on every process; an overflow is no divergence."""

import json
import pkgutil
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.amp import GradScaler

from stages.contract import Divergence, Hardware, Job, StageError
from stages.core import metrics, models
from stages.core.config import Optimizer
from stages.core.interrupt import Interrupted
from stages.ppo.players import Player
from stages.ppo.ranks import Ranks
from stages.registry import config_class, run_function
from tests.stages.core.test_zero import STAGES, WORDS, job
from tests.stages.ppo.test_stage import StopAfter
from tests.stages.tiny import causal_lm, saved, tokenizer_of
from tests.stages.together import task, together

SHOWN = ("loss", "policy_loss", "value_loss", "reward", "entropy")
NEAR = {"fp16": 5e-3, "bf16": 5e-2}
"""Of three decimal digits, or two; at the first step losses are equal to that, and later they drift apart by what Adam makes of roundings."""
TOO_LARGE = {"pretrain": 2.0**40, "ppo": 2.0**20}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    tokenizer = tokenizer_of(WORDS)
    return saved(causal_lm(tokenizer, context=64), tokenizer, tmp_path_factory.mktemp("base") / "model")


def done(made: Job):
    return run_function(made.kind)(made, config_class(made.kind).model_validate(made.config), made.hardware)


def lines(made: Job) -> list[dict]:
    return [line for line in metrics.read(made.folder / "metrics.jsonl") if "loss" in line or "coefficient" in line]


def weights(made: Job) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in load_file(made.artifact / "model.safetensors").values()])


def scale_from(monkeypatch, scale: float, interval: int = 2000) -> None:
    """Begin with that loss scale, and double it after so many steps."""

    def make(dtype, device):
        return GradScaler(device.type, init_scale=scale, growth_interval=interval, enabled=dtype == torch.float16)

    monkeypatch.setattr("stages.core.training.scaler_for", make)
    monkeypatch.setattr("stages.ppo.players.scaler_for", make)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision"), [*((stage, "fp16") for stage in STAGES), ("sft with LoRA", "bf16"), ("reward", "bf16")])
def test_sixteen_bits_learn_what_fp32_learns_and_the_artifact_is_whole(base, tmp_path, stage, precision):
    exact, half = (job(base, tmp_path / name / "run", stage, 0, precision=name) for name in ("fp32", precision))
    done(exact)
    done(half)
    pairs = list(zip(lines(exact), lines(half), strict=True))
    for number, (one, two) in enumerate(pairs):
        for name in set(SHOWN) & one.keys():
            assert two[name] == pytest.approx(one[name], abs=NEAR[precision] * (number + 1)), (number, name)
    assert any(one[name] != two[name] for one, two in pairs for name in set(SHOWN) & one.keys()), "it was fp32"
    name = "policy_loss_scale" if half.kind == "ppo" else "loss_scale"
    assert all((name in line) == (precision == "fp16") for line in lines(half))
    assert not any(name in line for line in lines(exact))


@pytest.mark.parametrize("stage", ["pretrain", "ppo"])
def test_an_overflow_leaves_the_step_out_halves_the_scale_and_is_no_divergence(base, tmp_path, monkeypatch, stage):
    made = job(base, tmp_path / "run", stage, 0, precision="fp16")
    plain = job(base, tmp_path / "plain" / "run", stage, 0, precision="fp16")
    done(plain)
    scale_from(monkeypatch, TOO_LARGE[stage])
    name = "critic_loss_scale" if stage == "ppo" else "loss_scale"
    result = done(made)
    scales = [line[name] for line in lines(made)]
    assert scales[0] < TOO_LARGE[stage], "so large a scale overflows in the first step"
    assert scales == sorted(scales, reverse=True)
    assert result.steps == len(lines(made)) == len(lines(plain))
    assert not (made.folder / "divergence.json").exists()
    assert weights(made).isfinite().all()
    if stage == "ppo":
        measured = config_class("ppo").model_validate(made.config).measures()
        assert [name for name in result.metrics if not any(fnmatchcase(name, pattern) for pattern in measured)] == []
    rates = [[line["learning_rate"] for line in lines(one)] for one in (made, plain)]
    assert rates[0] == rates[1], "the schedule goes by steps, also those that were left out"
    if stage == "pretrain":
        assert "grad_norm" not in lines(made)[0]
        assert lines(made)[0]["loss"] == lines(plain)[0]["loss"]


@pytest.mark.parametrize("stage", ["pretrain", "ppo"])
def test_what_is_not_finite_at_the_least_scale_or_in_the_loss_itself_is_a_divergence(base, tmp_path, monkeypatch, stage):
    limited = Divergence(action="skip", limit=1)
    small = job(base, tmp_path / "small" / "run", stage, 0, precision="fp16").model_copy(update={"divergence": limited})
    scale_from(monkeypatch, 1.0)
    broken = {"pretrain": "stages.core.losses._ChunkedCrossEntropy.backward", "ppo": "stages.ppo.players.nn.utils.clip_grad_norm_"}[stage]
    made = {"pretrain": lambda ctx, slope: (torch.full_like(ctx.saved_tensors[0], torch.inf), None, None, None), "ppo": infinite}[stage]
    with monkeypatch.context() as patch:
        patch.setattr(broken, staticmethod(made) if stage == "pretrain" else made)
        with pytest.raises(StageError, match=r"not finite.*divergence.limit \(1\) is reached"):
            done(small)
    lost = job(base, tmp_path / "lost" / "run", stage, 0, precision="fp16")
    scale_from(monkeypatch, 2.0**16)
    name = {"pretrain": "stages.core.causal.CausalTraining.summed_loss", "ppo": "stages.ppo.update.value_loss"}[stage]
    with monkeypatch.context() as patch:
        usual = pkgutil.resolve_name(name)
        patch.setattr(name, lambda *given, **named: not_a_number(usual(*given, **named)))
        with pytest.raises(StageError, match=r"not finite.* at step 1"):
            done(lost)


def infinite(parameters, clip):
    for parameter in parameters:
        parameter.grad.fill_(torch.inf)
    return torch.tensor(torch.inf)


def not_a_number(found):
    return found * float("nan") if isinstance(found, torch.Tensor) else found._replace(loss=found.loss * float("nan"))


@pytest.mark.parametrize("stage", ["pretrain", "ppo"])
def test_stopped_and_gone_on_with_equals_uninterrupted_with_its_scale(base, tmp_path, monkeypatch, stage):
    scale_from(monkeypatch, TOO_LARGE[stage], interval=2)
    whole, cut = (job(base, tmp_path / name / "run", stage, 0, precision="fp16") for name in ("whole", "cut"))
    done(whole)
    with monkeypatch.context() as patch:
        patch.setattr(f"stages.{stage}.run.interruptible", lambda: StopAfter(3))
        with pytest.raises(Interrupted):
            done(cut)
    done(cut)
    assert torch.equal(weights(whole), weights(cut))
    names = ("loss", "value_loss", "loss_scale", "policy_loss_scale", "critic_loss_scale")
    scales = [[{name: line[name] for name in names if name in line} for line in lines(one)] for one in (whole, cut)]
    assert scales[0] == scales[1]
    assert len({json.dumps(line) for line in scales[0]}) > 2


@pytest.mark.parametrize("stage", ["pretrain", "ppo"])
@pytest.mark.parametrize(("before", "after"), [("fp16", "fp32"), ("fp32", "fp16")])
def test_a_stage_goes_on_in_another_precision(base, tmp_path, monkeypatch, stage, before, after):
    made = job(base, tmp_path / "run", stage, 0, precision=before)
    with monkeypatch.context() as patch:
        patch.setattr(f"stages.{stage}.run.interruptible", lambda: StopAfter(3))
        with pytest.raises(Interrupted):
            done(made)
    done(made.model_copy(update={"hardware": made.hardware.model_copy(update={"precision": after})}))
    name = "policy_loss_scale" if stage == "ppo" else "loss_scale"
    assert [name in line for line in lines(made)] == [before == "fp16"] * 3 + [after == "fp16"] * (len(lines(made)) - 3)


def test_a_process_without_an_answer_in_its_first_minibatch_takes_the_step_of_the_others():
    class Others(Ranks):
        def sum_gradients(self, parameters):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 2.0**16)

    player = Player("policy", nn.Linear(2, 1), Optimizer(learning_rate=1e-3), 8, Others(), torch.float16)
    assert player.step() == pytest.approx(3**0.5), "three numbers, each with a gradient of 1 at the first scale"


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_have_one_scale_and_the_losses_of_one_process_also_after_a_kill(base, tmp_path):
    stages = ("pretrain", "ppo")
    alone, shared, killed = (
        {stage: job(base, tmp_path / way / stage, stage, 0, precision="fp16") for stage in stages} for way in ("one", "two", "killed")
    )
    for made in alone.values():
        done(made)
    together([*map(task, shared.values()), *(task(made, (3,)) for made in killed.values())], tmp_path)
    for stage in stages:
        for one, two in zip(lines(alone[stage]), lines(shared[stage]), strict=True):
            for name in set(SHOWN) & one.keys():
                assert two[name] == pytest.approx(one[name], abs=NEAR["fp16"]), (stage, name)
        assert torch.equal(weights(shared[stage]), weights(killed[stage]))


def test_fp16_is_refused_under_zero_before_a_model_is_loaded():
    with pytest.raises(StageError, match=r"hardware.precision: found fp16, which is not possible under ZeRO"):
        models.choose_precision(Hardware(gpus=0, zero=2, precision="fp16"))


@pytest.mark.parametrize(
    ("generation", "zero", "name"), [(6, 0, "fp32"), (7, 0, "fp16"), (7, "auto", "fp16"), (7, 2, "fp32"), (8, 0, "bf16"), (9, 3, "bf16")]
)
def test_auto_takes_what_the_gpu_multiplies_fast(monkeypatch, generation, zero, name):
    monkeypatch.setattr(models, "device_of", lambda hardware: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (generation, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    assert models.choose_precision(Hardware(zero=zero)).name == name

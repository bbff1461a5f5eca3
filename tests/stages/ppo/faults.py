"""Faults put in on purpose: each names what it breaks in the sources and the tests that must fail with it.

    python -m tests.stages.ppo.faults [part of a name or file ...]

Prints a row of FAULTS.md for each fault: the first test that failed, or NOT CAUGHT. A fault lives in a child process alone: what it loads of our
modules is changed as it is read, no file is touched. Libraries are loaded once, before the children are made.
"""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
PPO, CORE, REWARD = "stages/ppo", "stages/core", "stages/reward"


@dataclass(frozen=True)
class Fault:
    name: str
    file: str
    right: str
    """A text that stands in the file once."""
    wrong: str
    tests: Sequence[str]
    """Files or tests below tests/, those first that should tell."""


FAULTS = [
    # --- KL and rewards
    Fault("sign of the KL penalty", f"{PPO}/algorithm.py", "-coefficient * kl_BT", "coefficient * kl_BT", ["stages/ppo/test_algorithm.py"]),
    Fault("k3 in the reward", f"{PPO}/experience.py", 'kl_estimate(logp_BT, reference_BT, "k1")', 'kl_estimate(logp_BT, reference_BT, "k3")', ["stages/ppo/test_closed_form.py::test_ppo_finds_the_optimum_of_the_kl_regularised_objective"]),
    Fault("k2 in the reward", f"{PPO}/experience.py", 'kl_estimate(logp_BT, reference_BT, "k1")', 'kl_estimate(logp_BT, reference_BT, "k2")', ["stages/ppo/test_closed_form.py::test_ppo_finds_the_optimum_of_the_kl_regularised_objective"]),
    Fault("k3 with the sign of the log-ratio swapped", f"{PPO}/algorithm.py", "torch.expm1((-difference).clamp(max=LARGEST_LOG_RATIO)) + difference", "torch.expm1(difference.clamp(max=LARGEST_LOG_RATIO)) - difference", ["stages/ppo/test_algorithm.py"]),
    Fault("KL coefficient steered the wrong way", f"{PPO}/algorithm.py", "1.0 + error * answers", "1.0 - error * answers", ["stages/ppo/test_algorithm.py"]),
    Fault("score one token early", f"{PPO}/algorithm.py", "torch.where(mask_BT, columns_T, -1).amax(dim=1)", "(torch.where(mask_BT, columns_T, -1).amax(dim=1) - 1).clamp(min=0)", ["stages/ppo/test_algorithm.py"]),
    Fault("score on a pad token", f"{PPO}/algorithm.py", "last_B = torch.where(mask_BT, columns_T, -1).amax(dim=1)", "last_B = torch.full_like(mask_BT[:, 0], mask_BT.size(1) - 1, dtype=torch.long)", ["stages/ppo/test_algorithm.py"]),
    Fault("missing-EOS penalty for answers that ended", f"{PPO}/algorithm.py", "torch.where(finished_B, score_B, score_B - missing_eos_penalty)", "torch.where(finished_B, score_B - missing_eos_penalty, score_B)", ["stages/ppo/test_algorithm.py"]),
    Fault("missing-EOS penalty left out", f"{PPO}/experience.py", "finished_scores(total_B, finished_B, config.missing_eos_penalty)", "total_B", ["stages/ppo/test_update.py"]),
    Fault("overlong answers rewarded", f"{PPO}/experience.py", "score_B + overlong_penalty", "score_B - overlong_penalty", ["stages/ppo/test_update.py"]),
    Fault("running normalisation without the mean", f"{PPO}/algorithm.py", "(score_B - self.mean) / (std", "score_B / (std", ["stages/ppo/test_keeping.py"]),
    Fault("reward clip left out", f"{CORE}/rewards.py", "score = score.clip(-part.clip, part.clip)", "pass", ["stages/core/test_rewards.py"]),
    # --- advantages
    Fault("GAE off by one: the value of this state for the next one", f"{PPO}/algorithm.py", "gamma * next_value_B - values_BT[:, t]", "gamma * values_BT[:, t] - next_value_B", ["stages/ppo/test_algorithm.py"]),
    Fault("GAE without lambda", f"{PPO}/algorithm.py", "gamma * lam * next_advantage_B", "gamma * next_advantage_B", ["stages/ppo/test_algorithm.py"]),
    Fault("GAE starts at padded slots", f"{PPO}/algorithm.py", "next_value_B = torch.where(real_B, values_BT[:, t], next_value_B)", "next_value_B = values_BT[:, t]", ["stages/ppo/test_algorithm.py"]),
    Fault("GAE multiplies by the mask (NaN * 0)", f"{PPO}/algorithm.py", "advantages_BT[:, t] = torch.where(real_B, advantage_B, 0.0)", "advantages_BT[:, t] = advantage_B * real_B", ["stages/ppo/test_algorithm.py"]),
    Fault("a hole in the mask ends the answer", f"{PPO}/algorithm.py", "next_advantage_B = torch.where(real_B, advantage_B, next_advantage_B)", "next_advantage_B = torch.where(real_B, advantage_B, 0.0)", ["stages/ppo/test_algorithm.py"]),
    Fault("returns without the values", f"{PPO}/experience.py", "returns_BT=targets_BT + values_BT", "returns_BT=targets_BT", ["stages/ppo/test_closed_form.py::test_the_critic_learns_the_exact_value_of_every_state"]),
    Fault("returns from whitened advantages", f"{PPO}/experience.py", "returns_BT=targets_BT + values_BT", "returns_BT=advantages_BT + values_BT", ["stages/ppo/test_closed_form.py::test_the_critic_learns_the_exact_value_of_every_state"]),
    Fault("whitening per process", f"{PPO}/experience.py", "whiten(raw_BT, mask_BT, ranks.sum)", "whiten(raw_BT, mask_BT)", ["stages/ppo/test_update.py::test_two_processes_make_the_update_of_one"]),
    Fault("whitening per micro-batch", f"{PPO}/update.py", "*(column_BT[part][mask_BT].to(self.device) for column_BT in columns)", "*((column_BT[part][mask_BT] - (column_BT[part][mask_BT].mean() if column_BT is known.advantages_BT else 0.0)).to(self.device) for column_BT in columns)", ["stages/ppo/test_update.py"]),
    Fault("whitening over padding", f"{PPO}/algorithm.py", "values_N = values_BT[mask_BT].double()", "values_N = values_BT.flatten().double()", ["stages/ppo/test_algorithm.py"]),
    Fault("whitening divides by a vanishing deviation", f"{PPO}/algorithm.py", "1.0 / std if std >= smallest_std else 1.0", "1.0 / max(std, 1e-12)", ["stages/ppo/test_algorithm.py"]),
    Fault("importance weights upside down", f"{PPO}/algorithm.py", "(logp_BT - sampled_logp_BT).clamp", "(sampled_logp_BT - logp_BT).clamp", ["stages/ppo/test_engines.py"]),
    Fault("importance weights without their cap", f"{PPO}/algorithm.py", "ratio_BT.clamp(max=cap)", "ratio_BT", ["stages/ppo/test_engines.py", "stages/ppo/test_keeping.py"]),
    # --- losses
    Fault("no ratio clip", f"{PPO}/algorithm.py", "limited_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages_N", "limited_N = ratio_N * advantages_N", ["stages/ppo/test_algorithm.py"]),
    Fault("ratio clip by the maximum", f"{PPO}/algorithm.py", "torch.minimum(free_N, limited_N)", "torch.maximum(free_N, limited_N)", ["stages/ppo/test_algorithm.py"]),
    Fault("dual clip on good tokens too", f"{PPO}/algorithm.py", "(advantages_N < 0) & (surrogate_N < floor_N)", "surrogate_N < floor_N", ["stages/ppo/test_algorithm.py"]),
    Fault("ratio upside down", f"{PPO}/algorithm.py", "(logp_N - old_logp_N).clamp", "(old_logp_N - logp_N).clamp", ["stages/ppo/test_algorithm.py"]),
    Fault("no value clip", f"{PPO}/algorithm.py", "near_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)", "near_N = values_N", ["stages/ppo/test_algorithm.py"]),
    Fault("value clip by the minimum", f"{PPO}/algorithm.py", "torch.maximum(error_N, near_error_N)", "torch.minimum(error_N, near_error_N)", ["stages/ppo/test_algorithm.py"]),
    Fault("mean of means: the loss averaged per micro-batch", f"{PPO}/update.py", "token_weights(mask_BT, tokens, answers, self.config.aggregation)", "token_weights(mask_BT, float(mask_BT.sum()) * len(cuts), float(len(part)) * len(cuts), self.config.aggregation)", ["stages/ppo/test_update.py"]),
    Fault("mean of means over processes: counts of this process alone", f"{PPO}/update.py", "tokens, answers = self.ranks.sum(mine).tolist()", "tokens, answers = (mine * self.ranks.size).tolist()", ["stages/ppo/test_update.py::test_two_processes_make_the_update_of_one"]),
    Fault("sequence aggregation that ignores lengths", f"{PPO}/algorithm.py", "1.0 / (answers * lengths_B1)", "1.0 / (answers * lengths_B1.float().mean() * torch.ones_like(lengths_B1))", ["stages/ppo/test_algorithm.py"]),
    Fault("entropy bonus with the wrong sign", f"{PPO}/update.py", "loss = loss - config.entropy", "loss = loss + config.entropy", ["stages/ppo/test_update.py"]),
    Fault("KL loss with the wrong sign", f"{PPO}/update.py", "loss = loss + config.kl.loss", "loss = loss - config.kl.loss", ["stages/ppo/test_update.py"]),
    Fault("KL loss by the other estimator", f"{PPO}/update.py", "part.reference_N, config.kl.loss_estimator)", 'part.reference_N, "k1")', ["stages/ppo/test_update.py"]),
    Fault("stop_kl left out", f"{PPO}/update.py", "if self.config.stop_kl is not None and float", "if False and float", ["stages/ppo/test_update.py"]),
    Fault("the policy moves in the critic's warm-up", f"{PPO}/update.py", "warm=step < self.config.critic_warmup", "warm=False", ["stages/ppo/test_update.py"]),
    Fault("an answer in two minibatches", f"{PPO}/update.py", "order[start : start + size]", "order[start : start + size + 1]", ["stages/ppo/test_update.py"]),
    Fault("one clip for policy and critic", f"{PPO}/players.py", "parameters = [p for group in self.optimizer.param_groups for p in group[\"params\"]]\n        self.ranks", "parameters = [p for group in self.optimizer.param_groups for p in group[\"params\"]]\n        JOINT[:] = [p for p in JOINT if p.grad is not None and all(p is not q for q in parameters)] + parameters\n        nn.utils.clip_grad_norm_(JOINT, self.settings.clip)\n        self.ranks", ["stages/ppo/test_update.py", "stages/ppo/test_sharing.py"]),
    Fault("gradients not summed over processes", f"{PPO}/players.py", "self.ranks.sum_gradients(parameters)", "pass", ["stages/ppo/test_update.py::test_two_processes_make_the_update_of_one"]),
    # --- log-probabilities, values, players
    Fault("log-probabilities shifted by one", f"{CORE}/logprobs.py", "range(len(prompt) - 1, len(prompt) + len(completion) - 1)", "range(len(prompt), len(prompt) + len(completion))", ["stages/core/test_logprobs.py"]),
    Fault("EOS masked out (pad == eos)", f"{CORE}/logprobs.py", "        target += completion\n", "        target += completion\n    if any(t == 1 for t in target):\n        keep = [i for i, t in enumerate(target) if t != 1]\n        row, column, target = ([x[i] for i in keep] for x in (row, column, target))\n", ["stages/core/test_logprobs.py"]),
    Fault("temperature not applied in the trainer's log-probabilities", f"{CORE}/logprobs.py", "temperature = self.temperature if temperature is None else temperature", "temperature = 1.0", ["stages/core/test_logprobs.py"]),
    Fault("temperature not applied in the stage's policy and reference", f"{PPO}/run.py", "policy_module = TokenLogprobs(without_dropout(model.requires_grad_(True)), config.sampling.temperature, dtype)", "policy_module = TokenLogprobs(without_dropout(model.requires_grad_(True)), 1.0, dtype)", ["stages/ppo/test_stage.py"]),
    Fault("temperature not applied by the sampler", f"{CORE}/generation.py", "torch.softmax(logits_BV / temperature, dim=-1)", "torch.softmax(logits_BV, dim=-1)", ["stages/core/test_generation.py"]),
    Fault("entropy of the logits before the temperature", f"{CORE}/logprobs.py", "((logits_NV - normaliser_N[:, None]).exp() * logits_NV).sum(dim=-1)", "((logits_NV - normaliser_N[:, None]).exp() * logits_NV * temperature).sum(dim=-1)", ["stages/core/test_logprobs.py"]),
    Fault("values of the state after each token", f"{CORE}/logprobs.py", "values_N1: Tensor = self.head(hidden_BLH[batch.row_N, batch.column_N].float())", "values_N1: Tensor = self.head(hidden_BLH[batch.row_N, (batch.column_N + 1).clamp(max=hidden_BLH.size(1) - 1)].float())", ["stages/core/test_logprobs.py"]),
    Fault("a sweep that forgets how it sorted the rows", f"{CORE}/logprobs.py", "whole_BT[rows] = part_BT", "whole_BT[sorted(rows)] = part_BT", ["stages/core/test_logprobs.py"]),
    Fault("dropout on", f"{CORE}/models.py", "            module.p = 0.0\n", "            pass\n", ["stages/ppo/test_update.py"]),
    Fault("attention dropout on", f"{CORE}/models.py", "                setattr(module, name, 0.0)", "                pass", ["stages/ppo/test_update.py"]),
    Fault("the reference drifts with the policy", f"{PPO}/players.py", "    return copy.deepcopy(policy, dict(same) if on_its_weights else None).requires_grad_(False).eval()", "    return TokenLogprobs(policy.model, policy.temperature, policy.dtype).eval()", ["stages/ppo/test_stage.py", "stages/ppo/test_real_models.py"]),
    Fault("the reference is the policy with its adapter on", f"{PPO}/players.py", "with active(self.policy.model, self.names):", "if True:", ["stages/ppo/test_stage.py"]),
    Fault("the refreshed reference is not kept in a checkpoint", f"{PPO}/players.py", 'if self.refreshed and isinstance(self.reference, nn.Module) else {}', "if False else {}", ["stages/ppo/test_keeping.py"]),
    Fault("value loss into the trunk, by what a pass has left", f"{CORE}/logprobs.py", "(batch.ids_BL, hidden_NH.detach())", "(batch.ids_BL, hidden_NH)", ["stages/ppo/test_sharing.py"]),
    Fault("value loss into the trunk, by the critic's own pass", f"{PPO}/sharing.py", "            with torch.no_grad():\n                hidden_NH", "            with nullcontext():\n                hidden_NH", ["stages/ppo/test_sharing.py"]),
    Fault("the critic's adapter in the policy's optimizer", f"{PPO}/sharing.py", 'if f".{CRITIC}." not in name)', "if name)", ["stages/ppo/test_sharing.py"]),
    Fault("backward with the wrong adapter under checkpointing", f"{PPO}/update.py", "with acting(self.players.critic.module):", "if True:", ["stages/ppo/test_sharing.py"]),
    Fault("the critic ignores mean and deviation of its reward model", f"{PPO}/players.py", "critic.head.bias.fill_(-mean / std)", "critic.head.bias.fill_(0.0)", ["stages/ppo/test_update.py"]),
    # --- sampler
    Fault("left padding without position ids", f"{CORE}/generation.py", "- padding_B[:, None]).clamp(min=0)", "- 0 * padding_B[:, None]).clamp(min=0)", ["stages/core/test_generation.py", "stages/core/test_logprobs.py"]),
    Fault("left padding is seen", f"{CORE}/generation.py", ".long() if bool(padding_B.any()) else None", ".long() if False else None", ["stages/core/test_generation.py"]),
    Fault("prompts enter the cache one place early", f"{CORE}/generation.py", "whole[rows, :, end - own.size(-2) : end] = own", "whole[rows, :, end - own.size(-2) - 1 : end - 1] = own", ["stages/core/test_generation.py"]),
    Fault("the first tokens' logits in the order of lengths", f"{CORE}/generation.py", "return torch.cat(found)[order]", "return torch.cat(found[::-1])", ["stages/core/test_generation.py"]),
    Fault("random numbers by place in the batch", f"{CORE}/generation.py", "uniforms([seeds[i] for i in rows], max_new_tokens)", "uniforms(list(range(len(rows))), max_new_tokens)", ["stages/core/test_generation.py"]),
    Fault("a row goes on after its end", f"{CORE}/generation.py", "lengths_B[self.rows_B[ending_B]] = t + 1", "pass", ["stages/core/test_generation.py"]),
    # --- reward model
    Fault("score not at the last token", f"{CORE}/rewards.py", "last = torch.tensor([len(rows[i]) - 1 for i in batch], device=device)", "last = torch.tensor([longest - 1 for i in batch], device=device)", ["stages/core/test_rewards.py"]),
    Fault("score one token before the end", f"{CORE}/rewards.py", "[len(rows[i]) - 1 for i in batch]", "[max(len(rows[i]) - 2, 0) for i in batch]", ["stages/core/test_rewards.py"]),
    Fault("reward model asked without the end token", f"{CORE}/rewards.py", "return [*completion.ids[:-1], end_of_turn] if completion.finished else completion.ids", "return completion.ids[:-1] if completion.finished else completion.ids", ["stages/core/test_rewards.py"]),
    Fault("reward model's statistics ignored", f"{CORE}/rewards.py", "(scores.double().numpy() - self.mean) / self.std", "scores.double().numpy()", ["stages/core/test_rewards.py"]),
    Fault("chosen and rejected swapped in the loss", f"{REWARD}/learning.py", "chosen_B, rejected_B = scores_B2.unbind(-1)", "rejected_B, chosen_B = scores_B2.unbind(-1)", ["stages/reward/test_reward_learning.py"]),
    Fault("chosen and rejected swapped in the row", f"{REWARD}/rows.py", "ends.append((len(ids) + fork.first - 1, len(ids) + fork.first + fork.second - 1))", "ends.append((len(ids) + fork.first + fork.second - 1, len(ids) + fork.first - 1))", ["stages/reward/test_reward_rows.py"]),
    Fault("centring pulls apart", f"{CORE}/losses.py", "+ centre * (chosen_B + rejected_B).square()", "- centre * (chosen_B + rejected_B).square()", ["stages/reward/test_reward_learning.py"]),
    Fault("margin with the wrong sign", f"{CORE}/losses.py", "difference_B - margin_B.float()", "difference_B + margin_B.float()", ["stages/reward/test_reward_learning.py"]),
    Fault("label smoothing trusts the wrong label", f"{REWARD}/learning.py", "(1 - smoothing) * loss_B + smoothing * flipped_B", "smoothing * loss_B + (1 - smoothing) * flipped_B", ["stages/reward/test_reward_learning.py"]),
    Fault("a ranked list counts by its pairs", f"{REWARD}/learning.py", "(loss_B * weights_B).sum()", "loss_B.sum()", ["stages/reward/test_reward_learning.py"]),
    # --- text mix, metrics, resuming
    Fault("text mix at the sampling temperature", f"{PPO}/players.py", "return TokenLogprobs(self.module.model, temperature, self.module.dtype)", "return self.module", ["stages/ppo/test_update.py"]),
    Fault("text mix: mean of micro-batches' means", f"{PPO}/mix.py", ".sum() / tokens *", ".mean() / len(parts) *", ["stages/ppo/test_mix.py"]),
    Fault("metrics averaged over padding", f"{PPO}/experience.py", "torch.where(self.mask_BT, kl_estimate(self.logp_BT, self.reference_BT, estimator), 0.0).sum(1)", "(kl_estimate(self.logp_BT, self.reference_BT, estimator) + 0.01).sum(1)", ["stages/ppo/test_update.py"]),
    Fault("explained variance upside down", f"{PPO}/algorithm.py", "return 1.0 - residual / spread if", "return residual / spread if", ["stages/ppo/test_algorithm.py"]),
    Fault("the adaptive coefficient is lost on resuming", f"{PPO}/resuming.py", 'run.kl.coefficient = state["coefficient"]', "pass", ["stages/ppo/test_stage.py"]),
    Fault("the place in the schedule is lost on resuming", f"{PPO}/players.py", 'self.taken = state["taken"]', "pass", ["stages/ppo/test_stage.py"]),
    Fault("moments of the optimizer are lost on resuming", f"{PPO}/players.py", 'self.optimizer.load_state_dict(state["optimizer"])', "pass", ["stages/ppo/test_stage.py"]),
    Fault("running normalisation is lost on resuming", f"{PPO}/resuming.py", 'RunningMoments(**state["running"]) if run.running else None', "run.running", ["stages/ppo/test_keeping.py"]),
    Fault("moving average with the shares swapped", f"{PPO}/keeping.py", "1.0 - self.decay", "self.decay", ["stages/ppo/test_keeping.py"]),
    Fault("the best policy may exceed its KL budget", f"{PPO}/keeping.py", 'line["held_out_kl"] <= self.kl_budget', "True", ["stages/ppo/test_keeping.py"]),
    Fault("best of n by the worst reward", f"{CORE}/statistics.py", "order = np.argsort(rewards_K, kind=\"stable\")", "order = np.argsort(-rewards_K, kind=\"stable\")", ["stages/core/test_statistics.py"]),
]  # fmt: skip


LIBRARIES = (
    "hypothesis",
    "numpy",
    "peft",
    "pydantic",
    "pytest",
    "safetensors.torch",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
)


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads one of our modules with a fault in it."""

    fault: Fault

    def get_data(self, path: str) -> bytes:
        data = super().get_data(path)
        if path != str(ROOT / self.fault.file):
            return data
        text = data.decode()
        assert text.count(self.fault.right) == 1, f"{self.fault.name}: its text stands {text.count(self.fault.right)} times in {path}"
        head = "JOINT = []\n" if "JOINT" in self.fault.wrong else ""
        return (text.replace(self.fault.right, self.fault.wrong) + "\n" + head).encode()

    def path_stats(self, path: str) -> dict[str, Any]:
        raise OSError("compiled files of the right sources are passed over")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._module = fault.file.removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self._module:
            return None
        loader = _Loader(name, str(ROOT / self._fault.file))
        loader.fault = self._fault
        return importlib.machinery.ModuleSpec(name, loader, origin=str(ROOT / self._fault.file))


def verdict(fault: Fault) -> str:
    """What the tests say with the fault in, in a child of this process."""
    readable, writable = os.pipe()
    if (child := os.fork()) == 0:
        os.close(readable)
        try:
            told = _tested(fault)
        except BaseException as error:
            told = f"NOT TRIED: {type(error).__name__}: {error}"
        os.write(writable, told.encode()[:4000])
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(child, 0)
    return told


def _tested(fault: Fault) -> str:
    import pytest

    class Failures:
        first = ""

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed and not self.first:
                self.first = report.nodeid.partition("tests/")[2] or report.nodeid

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                raise RuntimeError(str(report.longrepr)[-600:])

    import torch.multiprocessing as processes

    sys.meta_path.insert(0, _Finder(fault))
    processes.spawn = functools.partial(processes.start_processes, start_method="fork")  # a spawned process would read the right sources
    os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
    failures = Failures()
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(str(ROOT / "tests" / test) for test in fault.tests)], plugins=[failures])
    return failures.first or "NOT CAUGHT"


def main(names: Sequence[str]) -> int:
    import torch

    for library in LIBRARIES:
        importlib.import_module(library)

    torch.set_num_threads(1)
    missed = 0
    for fault in FAULTS:
        if names and not any(name in f"{fault.file} {fault.name}" for name in names):
            continue
        told = verdict(fault)
        missed += "NOT " in told
        print(f"| {fault.name} | `{fault.file}` | {told if 'NOT ' in told else f'`{told}`'} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

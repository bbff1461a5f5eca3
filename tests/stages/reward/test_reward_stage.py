"""The whole stage, from files to an artifact that a stranger loads, on preferences whose utility is known."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

import stages.reward.run as stage
from data.chat import render, render_answer, render_prompt
from data.errors import DataError
from stages.contract import Artifact, Checkpoints, Hardware
from stages.core.answers import Answers
from stages.core.generation import Completion
from stages.core.interrupt import Interrupted
from stages.core.models import choose_precision, load_reward_model, load_tokenizer, without_dropout
from stages.core.rewards import ModelScorer, end_of_turn, last_token_scores
from stages.reward.config import Reward
from stages.reward.model import teach, untaught
from stages.reward.pairs import Held, encode, judged, read_preferences
from tests.stages.reward.planted import ASKED, WORDS, rows, written
from tests.stages.tiny import causal_lm, job_of, saved, tokenizer_of

LORA = {"rank": 4, "alpha": 8}
STRANGER = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder, conversations = sys.argv[1], json.load(open(sys.argv[2]))
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
assert model.config.num_labels == 1 and model.config.pad_token_id == AutoTokenizer.from_pretrained(folder).pad_token_id
with torch.no_grad():
    print(json.dumps([float(model(input_ids=torch.tensor([ids])).logits[0, 0]) for ids in conversations]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with an SFT model and 400 training and 100 held-out pairs."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = tokenizer_of(WORDS + ASKED)
    saved(causal_lm(tokenizer, layers=1), tokenizer, folder / "sft")
    written(folder / "pairs.jsonl", rows(400, seed=1))
    written(folder / "held-out.jsonl", rows(100, seed=2))
    return folder


@pytest.mark.slow
def test_probes_are_judged_apart_and_change_nothing_else(trained, made, tmp_path):
    job, result = trained
    if job.config.get("adapter"):
        pytest.skip("probes do not know of adapters")
    again, probed = run(made, tmp_path, epochs=1.0, probes=[{"path": "held-out.jsonl"}])
    apart = {name for name in probed.metrics if name.startswith("probe_")}
    assert {name: value for name, value in probed.metrics.items() if name not in apart} == result.metrics
    assert probed.metrics["probe_accuracy"] == pytest.approx(result.metrics["utility_agreement"])
    assert (again.artifact / "model.safetensors").read_bytes() == (job.artifact / "model.safetensors").read_bytes()


def run(made, folder, *, hardware=None, checkpoints=None, **config):
    settings = {"model": "sft", "data": [{"path": "pairs.jsonl"}], "validation": [{"path": "held-out.jsonl"}], "batch_pairs": 32}
    settings |= {"optimizer": {"learning_rate": 5e-3}} | config
    files = {"data.0": [made / "pairs.jsonl"], "validation.0": [made / "held-out.jsonl"]}
    files |= {f"probes.{n}": [made / probe["path"]] for n, probe in enumerate(config.get("probes", ()))}
    job = job_of(folder, "reward", settings, inputs={"model": ("causal-lm", made / "sft")}, files=files)
    job = job.model_copy(update={"hardware": hardware or job.hardware, "checkpoints": checkpoints or job.checkpoints})
    return job, stage.run(job, Reward.model_validate(job.config), job.hardware)


@pytest.fixture(scope="module", params=[None, pytest.param(LORA, marks=pytest.mark.slow)], ids=["full", "lora"])
def trained(request, made, tmp_path_factory):
    return run(made, tmp_path_factory.mktemp("trained"), epochs=1.0, adapter=request.param)


def held_out(made, tokenizer):
    named, _ = read_preferences([Reward.model_validate({"model": "m", "data": [{"path": "h"}]}).data[0]], [[made / "held-out.jsonl"]])
    return encode(tokenizer, named, 96)[0]


def test_a_stranger_in_a_fresh_process_gets_the_scores_that_were_measured_after_training(trained, made, tmp_path):
    job, result = trained
    pairs = held_out(made, load_tokenizer(job.artifact))
    (tmp_path / "ids.json").write_text(json.dumps([ids for pair in pairs for ids in (pair.chosen, pair.rejected)]))
    answer = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(job.artifact), str(tmp_path / "ids.json")],
        capture_output=True,
        check=True,
        text=True,
        cwd=tmp_path,
    )
    scores = np.array(json.loads(answer.stdout.splitlines()[-1])).reshape(-1, 2)
    measured = stage.judge(judged(pairs, scores))
    assert measured["reward_std"] > 0.1, "a head that learned nothing would prove nothing"
    for name in ("accuracy", "reward_mean", "reward_std", "held_out_loss", "utility_slope"):
        assert measured[name] == pytest.approx(result.metrics[name], abs=1e-6)


def test_the_artifact_states_mean_and_deviation_of_its_rewards(trained):
    job, result = trained
    artifact = Artifact.model_validate_json((job.artifact / "artifact.json").read_text())
    assert artifact.kind == "reward-model"
    assert (artifact.reward_mean, artifact.reward_std) == (result.metrics["reward_mean"], result.metrics["reward_std"])
    assert artifact.reload_difference < 1e-5


def test_the_controls_stand_beside_the_accuracy_and_say_which_length_wins(trained, made):
    job, result = trained
    pairs = held_out(made, load_tokenizer(job.artifact))
    (rule,) = [note for note in result.notes if note.startswith("length_baseline")]
    sign = 1 if "longer wins" in rule else -1
    wins = [(np.sign(sign * (len(pair.chosen) - len(pair.rejected))) + 1) / 2 for pair in pairs]
    assert result.metrics["length_baseline"] == pytest.approx(np.mean(wins))
    assert 0 < result.metrics["bag_of_words"] < 1


def test_scores_do_not_depend_on_padding_on_either_side(trained, made):
    job, _ = trained
    model, tokenizer = load_reward_model(job.artifact, Hardware(gpus=0)), load_tokenizer(job.artifact)
    model.set_attn_implementation("sdpa")
    for pair in held_out(made, tokenizer)[:8]:
        ids, pad = pair.chosen, [tokenizer.pad_token_id] * 5
        alone = last_token_scores(model, [ids])[0]
        for row, mask in ((ids + pad, [1] * len(ids) + [0] * 5), (pad + ids, [0] * 5 + [1] * len(ids))):
            mask = torch.tensor([mask])
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            with torch.no_grad():
                padded = model(input_ids=torch.tensor([row]), attention_mask=mask, position_ids=positions).logits[0, 0]
            torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)


def test_the_end_of_turn_is_scored(trained, made):
    job, _ = trained
    model, tokenizer = load_reward_model(job.artifact, Hardware(gpus=0)), load_tokenizer(job.artifact)
    pairs = held_out(made, tokenizer)
    assert all(pair.chosen[-1] == pair.rejected[-1] == end_of_turn(tokenizer) for pair in pairs)
    whole, cut = (last_token_scores(model, [ids[:stop] for ids in (pair.chosen for pair in pairs)]) for stop in (None, -1))
    assert ((whole - cut).abs() > 1e-3).float().mean() > 0.9


def test_the_ids_trained_on_are_those_that_ppo_will_ask_about(trained, made):
    job, _ = trained
    tokenizer = load_tokenizer(job.artifact)
    pairs, records = held_out(made, tokenizer), rows(100, seed=2)
    prompts = [record["prompt"] for record in records]
    words = [record["chosen"][0]["content"] for record in records]
    written_by_a_policy = [render_answer(tokenizer, prompt, answer) for prompt, answer in zip(prompts, words, strict=True)]
    completions = [Completion(ids, True, [0.0] * len(ids)) for ids in written_by_a_policy]
    asked = Answers(prompts, [render_prompt(tokenizer, prompt) for prompt in prompts], completions, words, [None] * 100)
    same_tokens = ModelScorer(None, end_of_turn(tokenizer))
    through_text = ModelScorer(None, end_of_turn(tokenizer), tokenizer)
    assert same_tokens.queries(asked) == through_text.queries(asked) == [pair.chosen for pair in pairs]


def test_a_reward_for_ending_is_learned_and_reaches_the_answers_that_end(made, tmp_path):
    """Pairs of an answer that ends and the same one cut before its end: whoever scored without the end would not tell them apart."""
    tokenizer = load_tokenizer(made / "sft")
    records, ended = rows(100, seed=2), held_out(made, tokenizer)
    pairs = [replace(pair, rejected=pair.chosen[:-1]) for pair in ended]
    settings = {"model": "sft", "data": [{"path": "p"}], "epochs": 6.0, "batch_pairs": 32, "optimizer": {"learning_rate": 5e-3}}
    job = job_of(tmp_path / "stage", "reward", settings, inputs={}, files={})
    model = teach(without_dropout(load_reward_model(made / "sft", Hardware(gpus=0))))
    config = Reward.model_validate(job.config)
    stage.trainer_of(model, Held(pairs[:64], pairs[64:], [], []), job, config, choose_precision(job.hardware), lambda: False).train()
    scorer = ModelScorer(untaught(model), end_of_turn(tokenizer))
    prompts, words = [record["prompt"] for record in records], [record["chosen"][0]["content"] for record in records]
    answers = [render_answer(tokenizer, prompt, answer) for prompt, answer in zip(prompts, words, strict=True)]
    prompt_ids = [render_prompt(tokenizer, prompt) for prompt in prompts]
    scores = []
    for finished in (True, False):
        completions = [Completion(ids if finished else ids[:-1], finished, [0.0] * len(ids)) for ids in answers]
        scores.append(scorer.score(Answers(prompts, prompt_ids, completions, words, [None] * 100))[""][64:])
    assert (scores[0] > scores[1] + 0.5).mean() >= 0.95


def swapped(pair):
    utilities = {"utility_chosen": pair.extra["utility_rejected"], "utility_rejected": pair.extra["utility_chosen"]}
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen, extra=pair.extra | utilities)


def test_swapping_chosen_and_rejected_mirrors_the_accuracy_and_leaves_the_truth(trained, made):
    job, result = trained
    model, tokenizer = load_reward_model(job.artifact, Hardware(gpus=0)), load_tokenizer(job.artifact)
    pairs = held_out(made, tokenizer)
    scores = np.array([[float(score) for score in last_token_scores(model, [pair.chosen, pair.rejected])] for pair in pairs])
    straight = stage.judge(judged(pairs, scores))
    mirrored = stage.judge(judged([swapped(pair) for pair in pairs], scores[:, ::-1]))
    assert mirrored["accuracy"] == pytest.approx(1 - straight["accuracy"])
    # The stage scores a pair in one row, this test each answer alone: only where the two are equal up to rounding may another come first.
    undecided = float((np.abs(np.diff(scores)) < 1e-5).mean())
    assert undecided <= 0.02
    assert straight["accuracy"] == pytest.approx(result.metrics["accuracy"], abs=undecided + 1e-9)
    assert mirrored["oracle_accuracy"] == pytest.approx(1 - result.metrics["oracle_accuracy"])
    assert mirrored["utility_agreement"] == pytest.approx(result.metrics["utility_agreement"])


@pytest.mark.slow
def test_planted_preferences_are_found_to_within_the_noise(tmp_path):
    """Without centring, which trades some of the rewards' scale for their mean (`test_centring_costs_scale...`)."""
    tokenizer = tokenizer_of(WORDS + ASKED)
    saved(causal_lm(tokenizer, layers=1), tokenizer, tmp_path / "sft")
    written(tmp_path / "pairs.jsonl", rows(6000, seed=1))
    written(tmp_path / "held-out.jsonl", rows(1500, seed=2))
    _, result = run(tmp_path, tmp_path / "stage", epochs=5.0, batch_pairs=64, centre=0.0)
    metrics = result.metrics
    assert metrics["accuracy"] >= metrics["oracle_accuracy"] - 0.02
    assert metrics["utility_correlation"] >= 0.95
    assert 0.85 <= metrics["utility_slope"] <= 1.15
    assert metrics["calibration_error"] <= 0.04
    assert abs(metrics["length_correlation"]) <= 0.15
    assert 0.45 <= metrics["length_baseline"] <= 0.55


def weights(job):
    from safetensors.torch import load_file

    return load_file(job.artifact / "model.safetensors")


@pytest.mark.slow
def test_a_run_that_was_interrupted_and_goes_on_equals_one_that_was_not(made, tmp_path, monkeypatch):
    whole, _ = run(made, tmp_path / "whole", epochs=0.5)
    asked = {"times": 0}

    @contextmanager
    def stops_after_three_steps():
        def stop():
            asked["times"] += 1
            return asked["times"] == 3

        yield stop

    with monkeypatch.context() as patch:
        patch.setattr(stage, "interruptible", stops_after_three_steps)
        with pytest.raises(Interrupted, match="step 3 of 6"):
            run(made, tmp_path / "cut", epochs=0.5)
    resumed, result = run(made, tmp_path / "cut", epochs=0.5)
    assert result.steps == 6
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    lines = [[json.loads(line)["loss"] for line in (job.folder / "metrics.jsonl").read_text().splitlines()] for job in (whole, resumed)]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_cutting_a_step_into_micro_batches_does_not_change_what_is_learned(made, tmp_path):
    scores = []
    for micro_batch in (32, 2):
        job, _ = run(made, tmp_path / str(micro_batch), epochs=0.25, hardware=Hardware(gpus=0, threads=1, micro_batch=micro_batch))
        model, tokenizer = load_reward_model(job.artifact, Hardware(gpus=0)), load_tokenizer(job.artifact)
        scores.append(last_token_scores(model, [pair.chosen for pair in held_out(made, tokenizer)]))
    torch.testing.assert_close(scores[0], scores[1], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_checkpoints_are_as_often_as_asked_and_no_more_are_kept(made, tmp_path):
    job, _ = run(made, tmp_path, epochs=0.5, checkpoints=Checkpoints(every_steps=2, keep_last=1))
    assert [path.name for path in (job.folder / "checkpoints").iterdir()] == ["step-000006"]


def test_without_validation_a_share_of_the_prompts_is_held_out_and_no_prompt_is_on_both_sides(made):
    tokenizer = load_tokenizer(made / "sft")
    config = Reward.model_validate({"model": "sft", "data": [{"path": "pairs.jsonl"}], "held_out": 0.2})
    job = job_of(made / "job", "reward", config.model_dump(), inputs={}, files={"data.0": [made / "pairs.jsonl"]})
    data = stage.read(job, config, tokenizer, 96)
    prompts = [{tuple(pair.chosen[: pair.prompt_tokens]) for pair in part} for part in (data.training, data.held_out)]
    assert len(data.training) + len(data.held_out) == 400
    assert not prompts[0] & prompts[1]
    assert 20 <= len(data.held_out) <= 160


def test_a_tokenizer_without_a_pad_token_or_with_one_that_ends_answers_is_refused(made, tmp_path):
    for pad, words in ((None, "no pad token"), ("<|end|>", "ends answers")):
        tokenizer = tokenizer_of(WORDS + ASKED)
        tokenizer.pad_token = pad
        folder = saved(causal_lm(tokenizer, layers=1), tokenizer, tmp_path / words)
        for name in ("pairs.jsonl", "held-out.jsonl"):
            (folder / name).write_bytes((made / name).read_bytes())
        (folder / "sft").symlink_to(folder)
        with pytest.raises(DataError, match=words):
            run(folder, tmp_path / "stage")


def test_rendered_conversations_end_at_the_answers_end_of_turn_whatever_the_template_writes_behind_it():
    tokenizer = tokenizer_of(WORDS + ASKED + ["assistant", "user"], template="chatml")
    messages = [{"role": "user", "content": "which one"}]
    record = {"prompt": messages, "chosen": [{"role": "assistant", "content": "wa"}], "rejected": [{"role": "assistant", "content": "wb"}]}
    whole = render(tokenizer, messages + record["chosen"]).ids
    from data.formats import Preference
    from stages.reward.pairs import Named

    (pair,), _ = encode(tokenizer, [Named("", Preference(**record))], 96)
    assert whole[: len(pair.chosen)] == pair.chosen
    assert len(whole) > len(pair.chosen)
    assert pair.chosen[-1] == end_of_turn(tokenizer)

"""The whole stage on small models: what must hold whatever the models are."""

import json
import math

import numpy as np
import pytest
import torch

from data.errors import DataError
from stages.contract import Artifact, StageError
from stages.core.artifacts import save_artifact
from stages.core.generation import Transformers
from stages.core.logprobs import completion_logprobs
from stages.core.models import load_causal_lm, load_reward_model, load_tokenizer
from stages.evaluate.config import Evaluate
from stages.evaluate.exam import graded, read_exams, sit
from stages.evaluate.family import log_ratios, members, perplexity
from stages.evaluate.run import run
from tests.stages.tiny import CPU, causal_lm, job_of, saved, tokenizer_of

WORDS = ["which", "one", "now", "then", "wa", "wb", "wc", "wd"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two models, a twin of the second, a reward model, prompts in two groups, and text."""
    folder = tmp_path_factory.mktemp("family")
    tokenizer = tokenizer_of(WORDS)
    for name, seed in (("base", 1), ("chat", 2), ("twin", 2)):
        saved(causal_lm(tokenizer, seed=seed), tokenizer, folder / name)
    judge = load_reward_model(folder / "base", CPU)
    torch.nn.init.normal_(judge.score.weight, generator=torch.Generator().manual_seed(0))
    save_artifact(judge, tokenizer, folder / "judge", kind="reward-model", reward_mean=0.5, reward_std=2.0)
    rows = [
        {"prompt": f"{WORDS[n % 4]} {WORDS[n % 3]}", "reference": WORDS[4 + n % 4], "group": "even" if n % 2 == 0 else "odd"}
        for n in range(12)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": f"{a} {b} now", "nats": 2.0}) + "\n" for a in WORDS for b in WORDS))
    return folder


def asked(made, folder, models=("base", "chat", "twin"), **config):
    settings = {
        "models": list(models),
        "text": [{"path": "text.jsonl"}],
        "tasks": [{"name": "exam", "prompts": [{"path": "prompts.jsonl"}], "rule": "regex:{reference}"}],
        "rewards": [{"model": "judge"}],
        "sampling": {"max_new_tokens": 8, "temperature": 0.8},
        "samples": 2,
    } | config
    inputs = {f"models.{n}": ("causal-lm", made / name) for n, name in enumerate(models)} | {
        "rewards.0.model": ("reward-model", made / "judge")
    }
    if "baseline" in config:
        inputs["baseline"] = ("causal-lm", made / config["baseline"])
    files = {"text.0": [made / "text.jsonl"]}
    files |= {f"tasks.{n}.prompts.0": [made / "prompts.jsonl"] for n in range(len(settings["tasks"]))}
    job = job_of(folder, "evaluate", settings, inputs=inputs, files=files)
    return job, Evaluate.model_validate(job.config)


@pytest.fixture(scope="module")
def report(made, tmp_path_factory):
    job, config = asked(made, tmp_path_factory.mktemp("exam"))
    return job, run(job, config, job.hardware)


def test_a_model_against_its_twin_wins_half_at_no_distance_and_says_the_same(report):
    _, result = report
    metrics = result.metrics
    assert metrics["twin.win_rate"] == 0.5
    assert abs(metrics["twin.kl"]) < 1e-5
    for name in ("regex", "regex_greedy", "reward", "length", "eos_rate", "perplexity"):
        assert metrics[f"twin.{name}"] == metrics[f"chat.{name}"]
    assert metrics["base.kl"] > 0.1


def test_every_model_is_measured_by_every_quantity_and_by_group(report):
    _, result = report
    for name in ("base", "chat", "twin"):
        for quantity in (
            "perplexity",
            "bits_per_byte",
            "perplexity_floor",
            "regex",
            "regex_greedy",
            "regex_even",
            "regex_greedy_odd",
            "reward",
        ):
            assert math.isfinite(result.metrics[f"{name}.{quantity}"])
    assert result.metrics["best_of_4.reward"] >= result.metrics["chat.reward"]
    family, groups, changes, curve = result.tables
    assert [row[:2] for row in curve.rows] == [["1", 0.0], ["2", 0.193], ["4", 0.636]]
    assert changes.columns == ["", "base", "twin", "best of 4 of chat"]
    assert family.columns == ["", "base", "chat", "twin", "best of 4 of chat"]
    assert [row[0] for row in groups.rows] == ["regex even", "regex, greedy even", "regex odd", "regex, greedy odd"]


def test_the_report_holds_tables_samples_and_pictures(report):
    job, result = report
    assert Artifact.model_validate_json((job.artifact / "artifact.json").read_text()).kind == "report"
    assert json.loads((job.artifact / "table.json").read_text())["metrics"] == result.metrics
    assert "| perplexity |" in (job.artifact / "table.md").read_text()
    samples = (job.artifact / "samples.md").read_text()
    assert samples.count("\n## ") == 2
    assert samples.count("| twin | greedy |") == 2
    for name in ("truth_reward.svg", "frontier.svg"):
        assert (job.artifact / name).read_text().startswith("<svg")


def test_changes_are_differences_prompt_by_prompt_so_that_a_twin_has_none_at_all(report):
    metrics = report[1].metrics
    for name in ("regex", "regex_greedy", "reward"):
        assert metrics[f"base.{name}_change"] == pytest.approx(metrics[f"base.{name}"] - metrics[f"chat.{name}"])
    row = next(row for row in report[1].tables[2].rows if row[0] == "reward change")
    assert row[2] == "0 (0 to 0)"
    assert metrics["twin.reward_above_best_of_4"] == pytest.approx(-metrics["best_of_4.reward_change"])
    assert "chat.reward_change" not in metrics
    # The twin is at no distance, where the curve is the mean of chat's four samples, of which the twin gave the first.
    mean = float(report[1].tables[3].rows[0][2].split()[0])
    assert metrics["twin.reward_above_best_of_n_at_its_kl"] == pytest.approx(metrics["chat.reward"] - mean, abs=0.01)


def test_several_answers_are_told_as_their_mean_and_best_of_n_draws_no_fewer(made, report, tmp_path):
    job, config = asked(made, tmp_path, answers=6)
    (exam,), _ = read_exams(job, config)
    chat, tokenizer = load_causal_lm(made / "chat", CPU), load_tokenizer(made / "chat")
    paper = sit(exam, Transformers(chat), tokenizer, config.sampling, 6, 96)
    verdicts = [graded("regex:{reference}", paper.sampled_answers(k))[1]["regex"] for k in range(6)]
    metrics = run(job, config, job.hardware).metrics
    assert metrics["chat.regex"] == metrics["twin.regex"] == pytest.approx(np.mean(verdicts))
    assert metrics["chat.regex_greedy"] == report[1].metrics["chat.regex_greedy"]
    assert metrics["twin.win_rate"] == 0.5
    assert metrics["best_of_4.reward"] >= metrics["chat.reward"]


@pytest.mark.slow
def test_the_same_job_gives_the_same_report_however_answers_are_batched(made, report, tmp_path):
    job, config = asked(made, tmp_path)
    again = run(job, config, job.hardware.model_copy(update={"micro_batch": 3}))
    for name, value in report[1].metrics.items():
        assert again.metrics[name] == pytest.approx(value, abs=1e-4), name


def test_perplexity_is_that_of_plain_transformers_on_each_text_alone(made):
    model, tokenizer = load_causal_lm(made / "chat", CPU), load_tokenizer(made / "chat")
    from data.formats import Text

    texts = ["which one now", "then wa", "wb"]
    told = perplexity(model, tokenizer, [Text(text) for text in texts], CPU)
    nats, tokens = 0.0, 0
    model.requires_grad_(False)
    for text in texts:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        nats += float(torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum"))
        tokens += ids.size(1) - 1
    assert told["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert told["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(map(len, texts)), rel=1e-5)
    assert "perplexity_floor" not in told


def paper_of(made, tmp_path, samples=3):
    from stages.core.generation import Transformers

    job, config = asked(made, tmp_path)
    (exam,), _ = read_exams(job, config)
    model, tokenizer = load_causal_lm(made / "base", CPU), load_tokenizer(made / "base")
    return sit(exam, Transformers(model), tokenizer, config.sampling, samples, 96), model


def test_the_distance_is_the_log_ratio_of_the_answers_whose_reward_is_told(made, tmp_path):
    """The mean over a prompt's answers, and of none that is only drawn for best-of-n."""
    paper, model = paper_of(made, tmp_path)
    chat = load_causal_lm(made / "chat", CPU)

    def nats(each, sample):
        ids = [answer.ids for answer in paper.sampled[sample]]
        return completion_logprobs(each, paper.prompt_ids, ids, 0.8)[0].sum(dim=1).numpy()

    ratios_KN = np.stack([nats(model, sample) - nats(chat, sample) for sample in range(3)])
    for answers in (1, 2, 3):
        np.testing.assert_allclose(log_ratios(chat, paper, answers, 0.8), ratios_KN[:answers].mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(log_ratios(model, paper, 3, 0.8), np.zeros(ratios_KN.shape[1]), atol=1e-4)


def test_samples_of_one_prompt_differ_and_their_seeds_do_not_depend_on_their_number(made, tmp_path):
    three, _ = paper_of(made, tmp_path, samples=3)
    one, _ = paper_of(made, tmp_path, samples=1)
    assert three.sampled[0] == one.sampled[0]
    assert three.texts["sampled"][0] != three.texts["sampled"][1]


def test_the_first_prompts_are_not_taken_for_all_of_them(made, tmp_path):
    job, config = asked(made, tmp_path, limit=10)
    (exam,), notes = read_exams(job, config)
    assert len(exam.prompts) == 10
    assert set(exam.groups) == {"even", "odd"}
    assert "exam: 10 of 12 prompts" in notes[-1]
    assert exam.prompts == read_exams(job, config)[0][0].prompts


def test_a_rule_with_several_parts_gives_a_quantity_each(made, tmp_path):
    rule = tmp_path / "mine.py"
    rule.write_text("def both(prompt, completion, finished, reference):\n    return {'ended': float(finished), 'good': 0.25}\n")
    paper, _ = paper_of(made, tmp_path)
    name, parts = graded(f"{rule}:both", paper.sampled_answers())
    assert name == "good"
    assert list(parts) == ["ended", "good"]
    assert set(parts["good"]) == {0.25}


def test_a_part_of_a_verdict_hides_nothing_that_is_told_of_every_answer(made, tmp_path):
    """The built-in rule `length` is no count of tokens, and a rule's `reward` is not that of the list."""
    rule = tmp_path / "mine.py"
    rule.write_text("def fair(prompt, completion, finished, reference):\n    return {'reward': 0.25, 'kl': 1.0}\n")
    tasks = [{"name": n, "prompts": [{"path": "prompts.jsonl"}], "rule": r} for n, r in (("a", "length:2"), ("b", f"{rule}:fair"))]
    job, config = asked(made, tmp_path, models=("base", "chat"), tasks=tasks, text=[])
    metrics = run(job, config, job.hardware).metrics
    assert 0 <= metrics["base.a.rule_length"] <= 1 < metrics["base.a.length"]
    assert (metrics["chat.b.rule_reward"], metrics["best_of_4.b.rule_reward"], metrics["chat.b.rule_kl"]) == (0.25, 0.25, 1.0)
    assert metrics["base.b.kl"] == 0.0
    assert metrics["base.b.reward"] != 0.25


def test_a_distance_that_cannot_be_told_is_left_out_with_the_reason(made, tmp_path, monkeypatch):
    def scaled(model):
        raise StageError("it scales its logits")

    monkeypatch.setattr("stages.evaluate.family.check_head", scaled)
    job, config = asked(made, tmp_path, models=("base", "chat"), text=[])
    result = run(job, config, job.hardware)
    assert "kl is not told: it scales its logits" in result.notes
    assert "chat.kl" not in result.metrics
    assert "chat.reward" in result.metrics


def test_several_tasks_are_told_apart_by_name_and_text_alone_needs_no_task(made, tmp_path):
    tasks = [{"name": name, "prompts": [{"path": "prompts.jsonl"}], "rule": rule} for name, rule in (("a", "json"), ("b", "exact"))]
    job, config = asked(made, tmp_path / "two", models=("base", "chat"), tasks=tasks, rewards=[], text=[])
    metrics = run(job, config, job.hardware).metrics
    assert {"chat.a.json", "chat.b.exact_greedy", "chat.a.kl", "base.b.exact_even", "base.a.eos_rate"} <= set(metrics)
    job, config = asked(made, tmp_path / "none", models=("chat",), tasks=[], rewards=[])
    result = run(job, config, job.hardware)
    assert set(result.metrics) == {"chat.perplexity", "chat.bits_per_byte", "chat.perplexity_floor"}


def test_the_baseline_is_the_model_before_the_last_or_the_one_that_is_named(made, tmp_path):
    assert members(*asked(made, tmp_path))[1].name == "chat"
    assert members(*asked(made, tmp_path, models=("chat",)))[1].name == "chat"
    family, baseline = members(*asked(made, tmp_path, baseline="base"))
    assert (baseline.name, [member.name for member in family]) == ("base", ["base", "chat", "twin"])
    family, baseline = members(*asked(made, tmp_path, models=("chat", "twin"), baseline="base"))
    assert (baseline.name, [member.name for member in family]) == ("base", ["base", "chat", "twin"])


def test_a_prompt_that_does_not_fit_is_named_before_any_answer(made, tmp_path):
    job, config = asked(made, tmp_path, sampling={"max_new_tokens": 95})
    with pytest.raises(DataError, match=r"exam: 12 prompts, the first of them number 1, do not fit into the 1 tokens"):
        run(job, config, job.hardware)


def test_a_model_that_does_not_answer_is_noticed(made, tmp_path, monkeypatch):
    """The stage is watched; texts, answers and scores are signs of life."""
    from stages.core import watchdog

    limits, signs = [], []
    monkeypatch.setattr(watchdog.faulthandler, "dump_traceback_later", lambda seconds, **_: limits.append(seconds))
    monkeypatch.setattr(watchdog.Watchdog, "beat", lambda self, beat=watchdog.Watchdog.beat: signs.append(beat(self)))
    job, config = asked(made, tmp_path, models=("chat",))
    run(job, config, job.hardware)
    assert limits == [job.hardware.step_timeout]
    assert len(signs) > 8

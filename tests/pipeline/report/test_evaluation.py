"""Laws of the outcome: samples side by side in any form that the evaluation leaves, and the plots that its numbers allow."""

import json
from pathlib import Path

from pipeline.report.evaluation import TEXT_LIMIT, exams, outcomes, read_markdown
from pipeline.report.outcome_plots import ways
from pipeline.report.reading import read_run
from tests.pipeline.report import pretend

MARKDOWN = """# The same prompts, answered by each model

## 1

> user: Where does Mira live?
> She has moved.

Reference: {"value": "Velm"}

| model |  | answer | worth |
| --- | --- | --- | --- |
| chat | sampled | In a \\| b. | good 0, reward -0.5 |
| chat | greedy | In Velm. | good 1, reward 1.25e-05 |
| policy | sampled | In Velm, of course. | good 1, reward 2 |

## 2

> user: Nothing?
"""


def test_samples_are_read_from_the_page_that_the_stage_writes_for_people() -> None:
    (sample,) = read_markdown(MARKDOWN)
    assert sample.prompt == "user: Where does Mira live?\nShe has moved."
    assert sample.reference == '{"value": "Velm"}'
    assert [(answer.model, answer.manner, answer.text) for answer in sample.answers][:2] == [
        ("chat", "sampled", "In a | b."),
        ("chat", "greedy", "In Velm."),
    ]
    assert sample.answers[1].scores == {"good": 1.0, "reward": 1.25e-05}
    assert sample.best == "policy"
    assert list(sample.by_model) == ["chat", "policy"]


POINTS = {
    "baseline": "chat",
    "exams": [
        {
            "name": "exam",
            "truth": "good",
            "rewards": {"chat": [i / 9 for i in range(20)], "policy": [1 + i / 9 for i in range(20)]},
            "best_of": {"n": [1, 2, 4], "kl": [0, 0.19, 0.64], "reward": [0, 0.3, 0.5], "truth": [0.2, 0.3, 0.4]},
        }
    ],
}


def test_the_way_of_a_policy_is_drawn_from_its_evaluations(tmp_path: Path) -> None:
    [way] = ways(read_run(pretend.make_run(tmp_path)))
    assert [dot.label for dot in way.dots] == ["start", "step 120"]
    assert way.dots[0].y < way.dots[1].y


def test_the_best_answer_is_named_only_where_one_model_alone_has_it() -> None:
    tied = MARKDOWN.replace("reward 2", "reward -0.5")
    assert next(read_markdown(tied)).best == ""
    assert next(read_markdown(MARKDOWN.replace("reward", "grade"))).best == ""


def test_numbers_are_told_apart_by_exam_and_model() -> None:
    one = exams({"chat.good": 0.5, "chat.good_greedy": 0.6, "chat.reward": 0.0, "policy.good": 0.7, "policy.reward": 1.0, "loose": 3.0})
    assert [(exam.name, exam.truth, list(exam.models)) for exam in one] == [("", "good", ["chat", "policy"])]
    two = exams({"chat.facts.exact": 1.0, "chat.facts.exact_greedy": 1.0, "chat.sums.exact": 0.0, "chat.perplexity": 4.0})
    assert [(exam.name, exam.truth) for exam in two] == [("facts", "exact"), ("sums", None)]


def test_the_plots_stand_where_the_numbers_allow_them(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    (outcome,) = outcomes(read_run(run))
    truth, frontier = outcome.plots
    assert [(dot.label, dot.shape) for dot in truth.dots] == [
        ("base", "circle"),
        ("chat", "circle"),
        ("policy", "circle"),
        ("best of 4", "diamond"),
    ]
    assert [dot.label for dot in frontier.dots] == ["base", "chat", "policy", "best of 4"], "without a known baseline, everybody"
    pretend.write(run / "exam" / "artifact" / "points.json", POINTS)
    (outcome,) = outcomes(read_run(run))
    truth, frontier = outcome.plots
    assert [dot.label for dot in frontier.dots] == ["chat", "policy", "best of 4"], "what the baseline began from did not buy with its KL"
    assert [(line.label, line.xs) for line in frontier.paths] == [("best of 1 to 4 of chat", [0.0, 0.19, 0.64])]
    assert [line.label for line in truth.paths] == ["descent", "best of 1 to 4 of chat"]
    assert {label: sum(counts) for label, counts in outcome.spreads[0].counts.items()} == {"chat": 20, "policy": 20}
    pretend.write(run / "exam" / "artifact" / "points.json", {"exams": [{"rewards": 3, "best_of": {"n": [1]}}]})
    assert len(outcomes(read_run(run))[0].plots) == 2, "damaged points are none"
    result = json.loads((run / "exam" / "result.json").read_text())
    pretend.write(run / "exam" / "result.json", result | {"metrics": {"base.perplexity": 4.0}})
    assert outcomes(read_run(run))[0].plots == []


def test_samples_come_in_several_forms_and_long_ones_are_cut(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    artifact = run / "exam" / "artifact"
    (artifact / "samples.json").unlink()
    rows = [
        {"prompt": [{"role": "user", "content": "Hi"}], "answers": [{"model": "chat", "completion": "x" * (TEXT_LIMIT + 9), "scores": {"reward": 1}, "finished": False}]},
        {"prompt": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}], "answers": {"chat": "Hello"}},
        {"prompt": "no answers"},
    ]  # fmt: skip
    (artifact / "samples.jsonl").write_text("\n".join([*map(json.dumps, rows), "{torn"]))
    first, second = outcomes(read_run(run))[0].samples
    assert (first.prompt, second.prompt) == ("Hi", "system: Be brief\nuser: Hi")
    assert first.answers[0].text.endswith("… (9 more characters)")
    assert first.answers[0].scores == {"reward": 1.0}
    assert first.answers[0].finished is False
    (artifact / "samples.jsonl").unlink()
    (artifact / "samples.md").write_text(MARKDOWN)
    assert len(outcomes(read_run(run))[0].samples) == 1


def test_many_scored_samples_give_a_reward_distribution(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    rows = [
        {"prompt": str(i), "answers": {"chat": {"text": "a", "reward": i / 7}, "policy": {"text": "b", "reward": 1 + i / 9}}}
        for i in range(30)
    ]
    pretend.write(run / "exam" / "artifact" / "samples.json", {"samples": rows})
    (spread,) = outcomes(read_run(run))[0].spreads
    assert {label: sum(counts) for label, counts in spread.counts.items()} == {"chat": 30, "policy": 30}

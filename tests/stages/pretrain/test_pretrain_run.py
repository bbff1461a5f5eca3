import json
import math

import pytest
import torch

from data.errors import DataError
from stages.contract import StageError
from tests.stages.sgd import sgd

WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "over", "green", "hills"]
SHAPE = {"hidden_size": 32, "layers": 2, "heads": 4, "context": 32}


def texts(count, seed=0):
    import random

    source = random.Random(seed)
    return [{"text": " ".join(source.choices(WORDS, k=source.randint(4, 30)))} for _ in range(count)]


@pytest.fixture
def pretrain(make_job, base_folder):
    """Makes a job: `pretrain(tokens=..., ...)`."""

    def make(rows=None, name="stage", hardware=(), **config):
        defaults = {"tokenizer": "words", "model": SHAPE, "data": [{"path": "x"}], "tokens": 2048, "batch_tokens": 256}
        config = defaults | {"optimizer": {"learning_rate": 1e-2}} | config
        inputs = {"tokenizer": ("tokenizer", base_folder)} if config["tokenizer"] else {"model": ("causal-lm", base_folder)}
        rows = {"data.0": texts(150)} if rows is None else rows
        return make_job("pretrain", config, name=name, inputs=inputs, rows=rows, hardware=dict(hardware))

    return make


def test_it_learns_and_says_how_well(pretrain, run_stage):
    job = pretrain(tokens=12_000)
    result = run_stage(job)
    metrics = result.metrics
    assert result.steps == 12_000 // 256
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["validation_loss"]))
    assert metrics["perplexity"] < 40 < 320, "far better than a uniform guess over the vocabulary"
    assert "perplexity_floor" not in metrics
    lines = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {"step", "steps", "seconds", "tokens", "loss", "learning_rate", "grad_norm", "tokens_per_second"} <= set(lines[-1])


def test_a_bigram_is_measured_on_the_same_tokens_and_beaten_where_more_than_the_last_word_counts(pretrain, run_stage):
    rows = [{"text": f"{word} sat on a {word}"} for word in WORDS] * 20
    job = pretrain(rows={"data.0": rows, "validation.0": rows[:40]}, validation=[{"path": "y"}], tokens=12_000)
    metrics = run_stage(job).metrics
    assert metrics["perplexity"] < metrics["bigram_perplexity"] < 320
    made = {folder for folder in (job.folder.parent / "tokens").iterdir() if folder.is_dir()}
    assert {link.resolve() for link in (job.folder / "tokens").iterdir()} == made, "what `pipeline clean` keeps"
    assert len(made) == 2


def test_the_bigram_is_left_out_with_a_note_where_counting_would_take_long(pretrain, run_stage, monkeypatch):
    monkeypatch.setattr("stages.pretrain.run.CONTROL_TOKENS", 100)
    result = run_stage(pretrain(tokens=512))
    assert "bigram_perplexity" not in result.metrics
    assert any("no bigram control" in note for note in result.notes)


def test_validation_is_that_of_the_artifact_on_each_document_alone(pretrain, run_stage):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    held = [{**row, "nats": 2.0} for row in texts(20, seed=5)]
    job = pretrain(rows={"data.0": texts(150), "validation.0": held}, validation=[{"path": "y"}], model={**SHAPE, "context": 64})
    metrics = run_stage(job).metrics
    model, tokenizer = AutoModelForCausalLM.from_pretrained(job.artifact), AutoTokenizer.from_pretrained(job.artifact)
    nats, tokens = 0.0, 0
    for row in held:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(row["text"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]])
        tokens += ids.size(1) - 1
        nats += float(model(ids, labels=ids).loss.detach()) * (ids.size(1) - 1)
    assert metrics["validation_loss"] == pytest.approx(nats / tokens, rel=1e-5)
    size = sum(len(row["text"]) for row in held)
    assert metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert metrics["perplexity_floor"] == pytest.approx(math.exp(2.0 * len(held) / tokens))


def test_the_result_depends_on_the_seed_and_not_on_the_micro_batch(pretrain, run_stage, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.setattr("stages.core.training.adamw", sgd)

    def weights(name, seed=1, **hardware):
        job = pretrain(name=name, hardware=hardware, tokens=1024, optimizer={"learning_rate": 0.1})
        run_stage(job.model_copy(update={"seed": seed}))
        return load_file(job.artifact / "model.safetensors")

    whole, halves = weights("whole", micro_batch=8), weights("halves", micro_batch=3)
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, halves[name], rtol=0, atol=1e-6)
    other = weights("other", seed=2)
    assert max(float((tensor - other[name]).abs().max()) for name, tensor in whole.items()) > 1e-2


def test_an_existing_model_is_continued_with_its_own_tokenizer(pretrain, run_stage):
    assert run_stage(pretrain(model="base", tokenizer=None)).metrics["perplexity"] < 320


def test_documents_longer_than_the_context_are_cut_and_wholly_learned(pretrain, run_stage):
    job = pretrain(rows={"data.0": [{"text": " ".join(WORDS * 10) + f" {index}"} for index in range(30)]}, held_out=0.2)
    assert run_stage(job).metrics["validation_loss"] > 0


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_the_stage_and_names_the_last_good_checkpoint(pretrain, run_stage, monkeypatch, broken):
    from stages.core import causal

    original = causal.CausalTraining.summed_loss

    def summed_loss(self, model, batch):
        loss = original(self, model, batch)
        if self.state.global_step == 5:
            poison = torch.full((), float("nan"))
            loss = loss * poison if broken == "loss" else loss + poison.where(torch.tensor(False), 0.0) * loss
            if broken == "gradient":
                loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(causal.CausalTraining, "summed_loss", summed_loss)
    job = pretrain()
    with pytest.raises(StageError, match=r"not finite .* at step 6, in rows 40 to 47 .*the last good checkpoint is step-000004"):
        run_stage(job)
    assert not job.artifact.exists()


def test_an_empty_data_set_is_the_users_mistake(pretrain, run_stage):
    with pytest.raises(DataError):
        run_stage(pretrain(rows={"data.0": []}))

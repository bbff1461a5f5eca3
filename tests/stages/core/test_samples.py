"""What pretraining and SFT say on the way: always to the same held-out prompts, in the record and in trackers, and without a trace in what is learned."""

import json
import random

import pytest

WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "over", "green", "hills"]
SHAPE = {"hidden_size": 32, "layers": 2, "heads": 4, "context": 64}


def said(source, least=2, most=8):
    return " ".join(source.choices(WORDS, k=source.randint(least, most)))


@pytest.fixture
def jobs(make_job, base_folder):
    """Makes jobs of eight steps: `jobs("sft", "name", samples=2)`."""
    source = random.Random(3)
    stories = [{"text": said(source, 8, 20)} for _ in range(100)]
    chats = [{"messages": [{"role": "user", "content": said(source)}, {"role": "assistant", "content": said(source)}]} for _ in range(120)]
    common = {"data": [{"path": "x"}], "batch_tokens": 128, "held_out": 0.1, "optimizer": {"learning_rate": 1e-2}}

    def make(kind, name="stage", samples=2, **more):
        own = {"model": SHAPE, "tokenizer": "words", "tokens": 8 * 128} if kind == "pretrain" else {"model": "base", "epochs": 0.6}
        inputs = {"tokenizer": ("tokenizer", base_folder)} if kind == "pretrain" else {"model": ("causal-lm", base_folder)}
        rows = {"data.0": stories if kind == "pretrain" else chats}
        return make_job(kind, {**common, **own, "samples": samples}, name=name, inputs=inputs, rows=rows, **more)

    return make


def lines(job):
    return [json.loads(line) for line in (job.folder / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_the_same_held_out_prompts_are_answered_at_the_start_and_after_each_quarter(jobs, run_stage, kind):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = jobs(kind, track=("tensorboard",))
    steps = run_stage(job).steps
    found = lines(job)
    quarters = [0, *(-(-steps * part // 4) for part in (1, 2, 3, 4))]
    assert [line["step"] for line in found] == [step for step in quarters for _ in range(2)]
    assert len({json.dumps(line["prompt"]) for line in found}) == 2
    assert all(line["answer"].strip() for line in found[-2:])
    assert found[0]["answer"] != found[-2]["answer"], "the model changed, the draw did not"
    trained = (job.folder.parent / "stage-data.0.jsonl").read_text()
    for line in found[:2]:
        whole = line["prompt"] + line["reference"] if kind == "pretrain" else line["reference"]
        assert whole.strip() in trained
    events = EventAccumulator(str(job.folder.parent / "track" / "stage")).Reload().Tensors("samples/text_summary")
    assert [event.step for event in events] == quarters
    page = events[-1].tensor_proto.string_val[0].decode()
    assert page.count("\n") == 3
    assert found[-1]["reference"].strip() in page


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_looking_changes_no_bit_of_what_is_learned(jobs, run_stage, kind):
    looked, blind = jobs(kind, "looked"), jobs(kind, "blind", samples=0)
    for job in (looked, blind):
        run_stage(job)
    weights = [(job.artifact / "model.safetensors").read_bytes() for job in (looked, blind)]
    assert weights[0] == weights[1]
    assert not (blind.folder / "samples.jsonl").exists()


def test_a_stage_that_goes_on_from_a_checkpoint_writes_the_record_of_one_that_was_never_stopped(jobs, run_stage, monkeypatch):
    from stages.contract import Checkpoints
    from stages.core.boundary import Boundary
    from stages.core.interrupt import Interrupted

    every = {"checkpoints": Checkpoints(every_steps=3)}
    whole, cut = jobs("pretrain", "whole", **every), jobs("pretrain", "cut", **every)
    run_stage(whole)
    stop, before = [], Boundary.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5 and not stop:
            stop.append(True)
            raise Interrupted("like a kill: nothing is saved")
        before(self, args, state, control, **kwargs)

    monkeypatch.setattr(Boundary, "on_step_end", on_step_end)
    with pytest.raises(Interrupted):
        run_stage(cut)
    assert [line["step"] for line in lines(cut)][-1] == 4, "beyond the checkpoint of step 3"
    run_stage(cut)
    assert (cut.folder / "samples.jsonl").read_bytes() == (whole.folder / "samples.jsonl").read_bytes()


@pytest.mark.parametrize(("first", "shards"), [(True, True), (False, False)])
def test_shards_and_other_processes_than_the_first_draw_nothing(jobs, tmp_path, capsys, first, shards):
    from types import SimpleNamespace

    import torch

    from stages.core.models import Precision
    from stages.core.samples import Asked, Sampling

    model = torch.nn.Linear(1, 1)
    if shards:
        model.weight.ds_id = 0
    sampling = Sampling(jobs("sft"), [Asked("a", [1], "b")], None, {0}, Precision("fp32", torch.float32, ""))
    sampling.trainer = SimpleNamespace(model=model, is_world_process_zero=lambda: first)
    sampling.on_train_begin(None, SimpleNamespace(global_step=0), None)
    sampling.on_step_end(None, SimpleNamespace(global_step=4, max_steps=4), None)
    assert ("under ZeRO-3" in capsys.readouterr().out) == first
    assert not (tmp_path / "stage" / "samples.jsonl").exists()


def test_an_answer_may_hold_any_character_and_a_line_may_be_torn_within_one(tmp_path):
    from stages.core.samples import Record

    record = Record(tmp_path / "samples.jsonl")
    kept = [{"step": step, "answer": "a\u2028b\u0085c\u2029\x0c\r"} for step in (0, 2)]
    record.write([*kept, {"step": 4, "answer": "later"}])
    with record.path.open("ab") as file:
        file.write('{"step": 2, "answer": "é'.encode()[:-1])
    record.rewind(2)
    assert [json.loads(line) for line in record.path.read_bytes().splitlines()] == kept

import pytest
import torch

from data.errors import DataError

QUESTIONS = {"who sat": "the cat", "who ran": "two dogs", "where": "on a mat", "over what": "green hills"}


def chats(count):
    pairs = list(QUESTIONS.items())
    rows = []
    for index in range(count):
        turns = [pairs[(index + turn) % len(pairs)] for turn in range(1 + index % 2)]
        messages = [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
        rows.append({"messages": [{"role": "system", "content": f"chat {index}"}, *messages]})
    return rows


@pytest.fixture
def sft(make_job, base_folder):
    def make(rows=None, name="stage", **config):
        defaults = {"model": "base", "data": [{"path": "x"}], "batch_tokens": 256, "epochs": 12, "optimizer": {"learning_rate": 1e-2}}
        rows = chats(60) if rows is None else rows
        return make_job("sft", defaults | config, name=name, inputs={"model": ("causal-lm", base_folder)}, rows={"data.0": rows})

    return make


def test_it_learns_to_answer_and_to_stop(sft, run_stage):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = sft()
    result = run_stage(job)
    assert result.metrics["validation_loss"] < 0.5
    assert 0 < result.metrics["mask_share"] < 0.7
    model, tokenizer = AutoModelForCausalLM.from_pretrained(job.artifact), AutoTokenizer.from_pretrained(job.artifact)
    right = 0
    for question, answer in QUESTIONS.items():
        prompt = tokenizer.apply_chat_template(
            [{"role": "system", "content": "chat 3"}, {"role": "user", "content": question}],
            add_generation_prompt=True, return_tensors="pt", return_dict=False,
        )  # fmt: skip
        said = model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.size(1) :]
        right += tokenizer.decode(said) == answer + "<|end|>"
    assert right == len(QUESTIONS)


@pytest.mark.parametrize("learn", ["all", "last"])
def test_only_the_assistants_words_and_ends_are_learned(sft, tokenizer, learn):
    from stages.core.rows import collate
    from stages.sft.chats import mask_share, read_chats
    from stages.sft.config import SFT

    turns = [{"role": r, "content": c} for r, c in [("user", "a b"), ("assistant", "c"), ("user", "d"), ("assistant", "e f")]]
    job = sft(rows=[{"messages": turns}, *chats(5)], learn=learn, held_out=0.1)
    found = read_chats(job, SFT.model_validate(job.config), tokenizer, 64)
    learned = sum(int(found.train[index].learn.sum()) for index in range(len(found.train.lengths)))
    assert mask_share(found.train) == learned / found.train.lengths.sum()
    said = {tokenizer.decode(collate([[found.train[index]]])["targets"]) for index in range(len(found.train.lengths))}
    assert ("c<|end|>e f<|end|>" if learn == "all" else "e f<|end|>") in said


def test_chats_that_do_not_fit_are_counted_and_none_left_is_an_error(sft, run_stage):
    long = {"messages": [{"role": "user", "content": "cat " * 80}, {"role": "assistant", "content": "x"}]}
    result = run_stage(sft(rows=[*chats(30), long], epochs=1, name="some"))
    assert any("left out" in note for note in result.notes)
    with pytest.raises(DataError, match="fits into"):
        run_stage(sft(rows=[{**long, "n": 1}, {"messages": [{"role": "user", "content": "dog " * 80}, long["messages"][1]]}], held_out=0.3))


def test_a_base_without_a_template_is_refused_before_anything_is_trained(sft, run_stage, llama, tokenizer, tmp_path):
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token, pad_token=tokenizer.pad_token
    )
    llama().save_pretrained(tmp_path / "bare")
    bare.save_pretrained(tmp_path / "bare")
    job = sft()
    inputs = {"model": job.inputs["model"].model_copy(update={"path": tmp_path / "bare"})}
    with pytest.raises(DataError, match="template"):
        run_stage(job.model_copy(update={"inputs": inputs}))


def test_a_lora_sft_changes_the_merged_weights_and_nothing_it_should_not(sft, run_stage, base_folder):
    from safetensors.torch import load_file

    job = sft(adapter={"rank": 4, "targets": "attention"}, epochs=2)
    run_stage(job)
    before, after = load_file(base_folder / "model.safetensors"), load_file(job.artifact / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "self_attn" in name}


def test_swapped_questions_cost_what_a_model_knows_of_them(sft, run_stage, make_job, base_folder):
    pairs = list(QUESTIONS.items())

    def rows(*, answer):
        texts = [(f"chat {number}: {pairs[number % 4][0]}", pairs[answer(number) % 4][1]) for number in range(120)]
        return [{"instruction": question, "output": said} for question, said in texts]

    def losses(name, rows):
        metrics = run_stage(sft(rows=rows, name=name, held_out=0.2)).metrics
        return metrics["validation_loss"], metrics["shuffled_prompt_loss"]

    own, shuffled = losses("reads", rows(answer=lambda number: number))
    assert shuffled > own + 0.5
    own, shuffled = losses("blind", rows(answer=lambda number: number * number // 7))
    assert shuffled == pytest.approx(own, abs=0.15)

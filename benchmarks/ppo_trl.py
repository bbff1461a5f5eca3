"""The peer of `benchmarks/ppo.py`: PPO by TRL 1.12, run in that release's own environment. Imports nothing of this project.

    python ppo_trl.py settings.json

Prints, as JSON, seconds of the processor of every update but the first one (rollout, scoring and training together).
"""

import json
import sys
import time

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.times.append(time.process_time())


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(settings["policy"], padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(settings["policy"], dtype=torch.float32) for _ in range(2))
    reward, value = (AutoModelForSequenceClassification.from_pretrained(settings["judge"], dtype=torch.float32) for _ in range(2))
    rows = [{"input_ids": ids} for ids in settings["prompts"]]
    batch, clock = settings["batch"], Clock()
    config = PPOConfig(
        output_dir=settings["folder"],
        per_device_train_batch_size=settings["micro_batch"],
        gradient_accumulation_steps=batch // settings["micro_batch"],
        num_mini_batches=settings["minibatches"],
        num_ppo_epochs=settings["epochs"],
        total_episodes=batch * settings["steps"],
        response_length=settings["max_new_tokens"],
        local_rollout_forward_batch_size=batch,
        stop_token="eos",  # noqa: S106
        temperature=1.0,
        kl_coef=0.05,
        learning_rate=1e-6,
        num_sample_generations=0,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:2]),
        callbacks=[clock],
    )
    trainer.train()
    seconds = [later - earlier for earlier, later in zip(clock.times, clock.times[1:], strict=False)]
    print("RESULT " + json.dumps(seconds))


if __name__ == "__main__":
    main()

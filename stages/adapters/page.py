"""The tables of `docs/adapters.md`, printed from the rules that the plan refuses by. Torch-free.

python -m stages.adapters.page docs/adapters.md        writes them into the page, between its two marks
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.adapters.combinations import RULES, Carried, Rule, Situation, Task, refusal
from stages.adapters.config import IA3, AdapterSpec, HandOver, Lora, Prefix, Prompt, PTuning, QLora

BEGIN, END = "<!-- combinations: begin -->", "<!-- combinations: end -->"
POLICIES: tuple[HandOver, ...] = ("merge", "stack", "continue")
KINDS: Mapping[str, AdapterSpec] = {
    "LoRA": Lora(),
    "rsLoRA": Lora(rslora=True),
    "DoRA": Lora(dora=True),
    "LoRA, `init: pissa` or `olora`": Lora(init="pissa"),
    "LoRA with `modules_to_save`": Lora(modules_to_save=("lm_head",)),
    "QLoRA": QLora(),
    "QLoRA with `dequantise`": QLora(dequantise=True),
    "IA3": IA3(),
    "prefix": Prefix(),
    "P-tuning": PTuning(),
    "prompt": Prompt(),
}
LATER = ("LoRA", "rsLoRA", "DoRA", "QLoRA", "IA3", "prefix", "P-tuning", "prompt")
TASKS: tuple[Task, ...] = ("sft", "reward")
STAGES: Mapping[str, tuple[Task, bool]] = {
    "pretrain, new model": ("pretrain", True),
    "pretrain, going on": ("pretrain", False),
    "sft": ("sft", False),
    "reward": ("reward", False),
    "ppo": ("ppo", False),
}


def tables() -> str:
    """Everything between the marks."""
    return "\n\n".join([_by_stage(), _handed_on(), _elsewhere(), _reasons()])


def _by_stage() -> str:
    """Each kind in each stage, under each policy."""
    rows = []
    for label, own in KINDS.items():
        cells = []
        for task, scratch in STAGES.values():
            verdicts = [_verdict(Situation(task, _with(own, policy), from_scratch=scratch)) for policy in POLICIES]
            cells.append(verdicts[0] if len(set(verdicts)) == 1 else " / ".join(verdicts))
        rows.append([label, *cells])
    return "Which kind in which stage, for `merge` / `stack` / `continue` (one word where all are alike):\n\n" + _table(
        ["kind", *STAGES], rows
    )


def _handed_on() -> str:
    """What a stage may train on an adapter that was handed on unmerged: two verdicts where a reward model's differs."""
    rows = []
    for label, earlier in KINDS.items():
        for policy in POLICIES[1:]:
            before = _with(earlier, policy)
            if refusal(Situation("sft", before)) is not None or label.endswith("`dequantise`"):
                continue
            carried = Carried((before,))
            own = [None, *(_later(name, earlier, policy) for name in LATER)]
            verdicts = [[_verdict(Situation(task, one, carried)) for task in TASKS] for one in own]
            rows.append([label, f"`{policy}`", *(texts[0] if texts[0] == texts[1] else " / ".join(texts) for texts in verdicts)])
    told = "What a stage may train on a model whose adapter was handed on (after `merge`, anything); two words where a language model and a reward model differ:\n\n"
    return told + _table(["earlier", "policy", "all weights", *LATER], rows)


def _elsewhere() -> str:
    """Circumstances beside policy and stage."""
    rows = [
        [label, _verdict(Situation("sft", _possible(own), checkpointing=True)), _verdict(_critic(own))]
        for label, own in KINDS.items()
        if _possible(own) is not None
    ]
    return "With `hardware.gradient_checkpointing`; and in a reward model, as the start of PPO's critic:\n\n" + _table(
        ["kind", "gradient checkpointing", "critic from it"], rows
    )


def _critic(own: AdapterSpec) -> Situation:
    kept = next((_with(own, policy) for policy in POLICIES[1:] if refusal(Situation("reward", _with(own, policy))) is None), None)
    return Situation("ppo", critic=Carried((kept,)) if kept else Carried())


def _reasons() -> str:
    lines = [f"{number}. {rule.when}: {rule.reason}; {rule.way_out}." for number, rule in enumerate(RULES, 1)]
    return "Why not, and what to do instead:\n\n" + "\n".join(lines)


def _later(name: str, earlier: AdapterSpec, policy: HandOver) -> AdapterSpec:
    """The next stage's adapter: of the named kind; where it is the earlier one's own kind and goes on, of its very shape."""
    same = policy == "continue" and KINDS[name].label == earlier.label
    return _with(earlier if same else KINDS[name], "continue" if KINDS[name].family == "prompt" else "stack")


def _possible(own: AdapterSpec) -> AdapterSpec | None:
    return next((_with(own, policy) for policy in POLICIES if refusal(Situation("sft", _with(own, policy))) is None), None)


def _with(own: AdapterSpec, policy: HandOver) -> AdapterSpec:
    return own.model_copy(update={"hand_over": policy})


def _verdict(situation: Situation) -> str:
    rule = refusal(situation)
    return "yes" if rule is None else f"no ({_number(rule)})"


def _number(rule: Rule) -> int:
    return RULES.index(rule) + 1


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def written(page: str) -> str:
    """The page with its tables as they are now. Raises ValueError if it has no marks."""
    before, after = page.index(BEGIN) + len(BEGIN), page.index(END)
    return f"{page[:before]}\n\n{tables()}\n\n{page[after:]}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(written(file.read_text(encoding="utf-8")), encoding="utf-8")

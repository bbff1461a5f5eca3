"""`python -m stages.core.talk`: answers for a terminal, streamed; as `stages.core.dialogue` says. A model is loaded when it is first asked."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

import torch
from pydantic import BaseModel
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, TextStreamer

from data import chat
from data.errors import DataError
from stages.contract import FAILED, WRONG_INPUT
from stages.core.answers import Answers
from stages.core.dialogue import Ask, Drawing, Opening, Piece, Said, Wrong
from stages.core.generation import Completion
from stages.core.logprobs import completion_logprobs
from stages.core.models import check_fit, context_of, load_causal_lm, load_reward_model, load_tokenizer
from stages.core.rewards import ModelScorer, end_of_turn, reward_statistics
from stages.core.trust import trust_folders


@dataclass
class Talker:
    """A model and its own tokenizer and template."""

    model: Any
    tokenizer: Any

    @property
    def ends(self) -> set[int]:
        return set(chat.end_ids(self.tokenizer))

    def prompt(self, messages: Sequence[dict[str, Any]], room: int) -> tuple[list[dict[str, Any]], list[int]]:
        """The messages that fit, and their ids. Raises DataError if not even the last exchange fits.

        Without a chat template the model goes on with the bare text, as it was trained to.
        """
        if self.tokenizer.chat_template:
            [found] = chat.fit_prompts(self.tokenizer, [list(messages)], room)
            long = chat.render_prompt(self.tokenizer, messages[-1:]) if found is None else []
        else:
            texts = ([*messages[start:]] for start in range(len(messages)))
            found = next(((kept, ids) for kept in texts if len(ids := self._bare(kept)) <= room), None)
            long = self._bare(messages[-1:])
        if found is None:
            raise DataError(f"the message has {len(long)} tokens and the model room for {max(room, 0)} beside its answer; shorten it")
        if not found[1]:
            raise DataError("the message has no tokens; say something")
        return found

    def _bare(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        text = "\n".join(str(message["content"]) for message in messages)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer(self, ids: list[int], drawing: Drawing, show: Callable[[str], None], stop: Callable[[], bool]) -> Completion:
        """One answer, shown word by word."""
        torch.manual_seed(drawing.seed)
        given = torch.tensor([ids], device=self.model.device)
        found = self.model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            generation_config=self._config(drawing),
            streamer=_Streamer(self.tokenizer, show),
            stopping_criteria=StoppingCriteriaList([_Stop(stop)]),
        )
        tokens = found[0, len(ids) :].tolist()
        return Completion(tokens, bool(tokens) and tokens[-1] in self.ends, [])

    def _config(self, drawing: Drawing) -> GenerationConfig:
        draws = drawing.temperature > 0
        how = {"temperature": drawing.temperature, "top_p": drawing.top_p, "top_k": drawing.top_k or None} if draws else {}
        pad = self.tokenizer.pad_token_id
        return GenerationConfig(
            do_sample=draws, max_new_tokens=drawing.max_new_tokens, eos_token_id=sorted(self.ends), pad_token_id=pad, **how
        )


class _Streamer(TextStreamer):  # type: ignore[misc]
    def __init__(self, tokenizer: Any, show: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._show(text)


class _Stop(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((input_ids.size(0),), self._stop(), dtype=torch.bool, device=input_ids.device)


@dataclass
class Table:
    """Everybody who was asked so far, and the judges."""

    opening: Opening
    talkers: dict[str, Talker] = field(default_factory=dict)
    judges: dict[str, tuple[Any, Any]] | None = None

    def talker(self, name: str) -> Talker:
        if name not in self.talkers:
            path = self.opening.models[name]
            model, tokenizer = load_causal_lm(path, self.opening.hardware), load_tokenizer(path)
            check_fit(model, tokenizer, path)
            self.talkers[name] = Talker(model, tokenizer)
        return self.talkers[name]

    def said(self, ask: Ask, show: Callable[[str], None], stop: Callable[[], bool]) -> Said:
        """Answer, and weigh the answer. Raises DataError where the prompt cannot be put."""
        talker = self.talker(ask.model)
        context = context_of(talker.model)
        drawing = ask.drawing.model_copy(update={"max_new_tokens": min(ask.drawing.max_new_tokens, max(1, context // 2))})
        messages, ids = talker.prompt(ask.messages, context - drawing.max_new_tokens)
        completion = talker.answer(ids, drawing, show, stop)
        text = talker.tokenizer.decode(completion.words, skip_special_tokens=True)
        logprobs, _ = completion_logprobs(talker.model, [ids], [completion.ids])
        cut: Literal["at the limit", "stopped"] = "stopped" if stop() else "at the limit"
        return Said(
            model=ask.model,
            text=text,
            tokens=len(completion.ids),
            ended="by itself" if completion.finished else cut,
            logprob=float(logprobs.sum()),
            rewards=self.rewards(talker, Answers([messages], [ids], [completion], [text], [None])),
            forgotten=len(ask.messages) - len(messages),
        )

    def rewards(self, talker: Talker, answers: Answers) -> dict[str, float]:
        """What every judge gives, as PPO would see it."""
        if self.judges is None:
            paths = self.opening.judges.items()
            self.judges = {name: (load_reward_model(path, self.opening.hardware), load_tokenizer(path)) for name, path in paths}
        found = {}
        for name, (model, own) in self.judges.items():
            template = talker.tokenizer.chat_template
            same = bool(template) and own.chat_template == template and own.get_vocab() == talker.tokenizer.get_vocab()
            mean, std = reward_statistics(self.opening.judges[name])
            scorer = ModelScorer(model, end_of_turn(own), None if same else own, mean, std)
            found[name] = float(scorer.score(answers)[""][0])
        return found


def serve(source: TextIO, out: TextIO, stop: Callable[[], bool], rest: Callable[[], None]) -> None:
    """Answer asks until there are no more. `rest` is called before each answer: earlier signals are forgotten."""

    def tell(event: BaseModel) -> None:
        print(event.model_dump_json(), file=out, flush=True)

    table = Table(Opening.model_validate_json(source.readline()))
    trust_folders(table.opening.trusted)
    for line in source:
        ask = Ask.model_validate_json(line)
        rest()
        try:
            tell(table.said(ask, lambda text: tell(Piece(text=text)), stop))
        except (DataError, RuntimeError, ValueError) as error:
            code = WRONG_INPUT if isinstance(error, DataError) else FAILED
            tell(Wrong(reason=" ".join(str(error).split())[:500] or type(error).__name__, code=code))


def main() -> int:
    # Nothing but events goes to the terminal's end of the pipe, whatever libraries print.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    stopped: list[bool] = []
    signal.signal(signal.SIGINT, lambda number, frame: stopped.append(True))
    torch.set_grad_enabled(False)
    serve(sys.stdin, out, lambda: bool(stopped), stopped.clear)
    return 0


if __name__ == "__main__":
    sys.exit(main())

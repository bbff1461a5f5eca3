"""Answers from a causal language model: a hand loop over the KV cache that neither pads more than it must nor computes for finished rows.

Randomness is counter-based: token t of the answer with seed s is drawn with the t-th number of the Philox stream keyed by s. Answers therefore
depend neither on how rows are batched nor on how many processes share them, and a resumed run draws what the uninterrupted one would have.
Sampling filters (top-p, top-k, penalties) are left out on purpose: the trainer's log-probabilities would then be those of another distribution.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from stages.adapters.prompts import has_prompt, is_prompted, prefilled
from stages.core.logprobs import arithmetic, chosen_logprobs, cut, passes
from stages.core.watchdog import beat

CACHED_TOKENS = 1 << 16
"""Most tokens (rows x prompt and answer) in the cache at once where the rows of a micro-batch are not given."""
LEAVING_SHARE = 0.2
"""Rows leave the batch once this share of it has finished: leaving copies the cache, staying computes for nothing."""


@dataclass(frozen=True)
class Completion:
    ids: list[int]
    """The answer's tokens, the one that ended it included."""
    finished: bool
    """Whether an end token ended it; False if it was cut at the limit."""
    logprobs: list[float]
    """Log-probability of each token when it was drawn, at the sampling temperature."""

    @property
    def words(self) -> list[int]:
        """The answer's tokens without the one that ended it."""
        return self.ids[:-1] if self.finished else self.ids


class Engine(Protocol):
    """What draws answers. Two methods, so that another engine (vLLM, a fake) can stand in."""

    def sync(self) -> None:
        """Take over the policy's weights as they are now; called before every rollout."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        temperature: float,
        max_new_tokens: int,
        end_ids: Collection[int],
        greedy: bool = False,
    ) -> list[Completion]: ...


def uniforms(seeds: Sequence[int], count: int) -> np.ndarray:
    """(rows, count) float64 in [0, 1): row i is the start of the Philox stream keyed by seeds[i], whatever the other rows are."""
    return np.stack([np.random.Generator(np.random.Philox(key=seed)).random(count) for seed in seeds])


def draw(logits_BV: Tensor, uniform_B: Tensor | None, temperature: float) -> Tensor:
    """Token ids (B): by inverse transform of softmax(logits / temperature) at `uniform_B`, or the likeliest where it is None."""
    if uniform_B is None:
        return logits_BV.argmax(dim=-1)
    cumulated_BV = torch.softmax(logits_BV / temperature, dim=-1).cumsum(dim=-1, dtype=torch.float64)
    aim_B1 = uniform_B[:, None] * cumulated_BV[:, -1:]
    # right=True: the first token whose cumulated probability lies *above* the aim, so one of probability 0 is never drawn.
    return torch.searchsorted(cumulated_BV, aim_B1, right=True)[:, 0].clamp(max=logits_BV.size(-1) - 1)


class Transformers:
    """Draws answers with a transformers model, bare or with adapters, on the device where it lies. The model may be training between calls."""

    def __init__(self, model: Any, micro_batch: int | None = None, dtype: torch.dtype = torch.float32) -> None:
        """`dtype` is the arithmetic of the model's layers, as in the trainer's forward pass."""
        self.model = model
        self.micro_batch = micro_batch
        self.dtype = dtype

    def sync(self) -> None:
        """Nothing to do: it draws with the very model that learns."""

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        temperature: float,
        max_new_tokens: int,
        end_ids: Collection[int],
        greedy: bool = False,
    ) -> list[Completion]:
        """One completion for each prompt, in order. Prompts must not be empty; a seed is any integer in [0, 2**64)."""
        was_training = self.model.training
        self.model.eval()
        completions: dict[int, Completion] = {}
        try:
            lengths = [len(prompt) for prompt in prompts]
            for rows in cut([n + max_new_tokens for n in lengths], self.micro_batch, CACHED_TOKENS):
                numbers = None if greedy else uniforms([seeds[i] for i in rows], max_new_tokens)
                batch = _Rows(self.model, [prompts[i] for i in rows], numbers, max_new_tokens)
                with arithmetic(batch.device, self.dtype):
                    answers = batch.answer(temperature, max_new_tokens, end_ids)
                completions.update(zip(rows, answers, strict=True))
        finally:
            self.model.train(was_training)
        return [completions[i] for i in range(len(prompts))]


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of the cache with room for whole answers from the start: a growing one is copied anew for every token."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.used = room, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values so far, (rows, heads, tokens, head size) each, as views; what comes later is written behind them."""
        if not self.is_initialized:
            self.make_room(key_states, value_states, len(key_states))
        begin, self.used = self.used, self.used + key_states.size(-2)
        self.keys[:, :, begin : self.used] = key_states
        self.values[:, :, begin : self.used] = value_states
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def get_seq_length(self) -> int:
        return self.used

    def make_room(self, key_states: Tensor, value_states: Tensor, rows: int) -> None:
        """Allocate for so many rows. Zeros, because what lies before a shorter prompt is masked, and a masked NaN would still be one."""
        self.lazy_initialization(key_states, value_states)
        self.keys, self.values = (new.new_zeros(rows, new.size(1), self.room, new.size(-1)) for new in (key_states, value_states))

    def place(self, rows: list[int], count: int, end: int, part: Any) -> None:
        """Put what another layer holds of some of `count` rows where its last token lies before `end`."""
        if not self.is_initialized:
            self.make_room(part.keys, part.values, count)
        for whole, own in ((self.keys, part.keys), (self.values, part.values)):
            whole[rows, :, end - own.size(-2) : end] = own
        self.used = end


def roomy_cache(config: Any, room: int) -> DynamicCache:
    """An empty cache for `room` tokens. Layers of other kinds (sliding windows) stay as transformers makes them."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _Rows:
    """One micro-batch on its way: the rows still being answered, their cache, mask and positions. Left padding only where prompts differ in length."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], numbers_BT: np.ndarray | None, limit: int) -> None:
        self.device = next(model.parameters()).device
        # peft's own forward pass would put virtual tokens before every token that is drawn: they lie in the cache instead.
        self.model = model.get_base_model() if has_prompt(model) else model
        self.count, self.longest = len(prompts), max(map(len, prompts))
        padded = [[0] * (self.longest - len(prompt)) + list(prompt) for prompt in prompts]
        self.ids = torch.tensor(padded, device=self.device)
        self.lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        self.numbers_BT = None if numbers_BT is None else torch.from_numpy(numbers_BT).to(self.device)
        self.rows_B = torch.arange(self.count, device=self.device)
        self.padding_B = self.longest - self.lengths_B
        filled = prefilled(model, self.model.get_decoder(), self.count) if is_prompted(model) else None
        self.cache = filled if filled is not None else roomy_cache(model.config, self.longest + limit)
        self.virtual = self.cache.get_seq_length()
        """Virtual tokens before the text."""

    def answer(self, temperature: float, limit: int, end_ids: Collection[int]) -> list[Completion]:
        ends = torch.tensor(sorted(end_ids), device=self.device)
        tokens_BT = torch.zeros(self.count, limit, dtype=torch.long, device=self.device)
        logp_BT = torch.zeros(self.count, limit, device=self.device)
        lengths_B = torch.full((self.count,), limit, device=self.device)
        ended_B = torch.zeros(self.count, dtype=torch.bool, device=self.device)
        for t in range(limit):
            beat()
            logits_BV = self._forward(t) if t else self._read_prompts()
            uniform_B = None if self.numbers_BT is None else self.numbers_BT[self.rows_B, t]
            token_B = draw(logits_BV, uniform_B, temperature)
            tokens_BT[self.rows_B, t] = token_B
            logp_BT[self.rows_B, t] = chosen_logprobs(logits_BV, token_B, temperature)[0]
            ending_B = torch.isin(token_B, ends) & ~ended_B[self.rows_B]
            lengths_B[self.rows_B[ending_B]] = t + 1
            ended_B[self.rows_B[ending_B]] = True
            self.ids = token_B[:, None]
            if not self._leave(~ended_B[self.rows_B]):
                break
        columns = zip(tokens_BT.tolist(), logp_BT.tolist(), lengths_B.tolist(), ended_B.tolist(), strict=True)
        return [Completion(ids[:n], ended, logp[:n]) for ids, logp, n, ended in columns]

    def _read_prompts(self) -> Tensor:
        """Logits (rows, V) of the first tokens. The prompts enter the cache neighbours in length together, so that little of them is padding."""
        if not all(isinstance(layer, RoomyLayer) for layer in self.cache.layers):
            return self._forward(0)
        groups = passes(self.lengths_B.tolist(), None, self.device)
        found = []
        for rows in groups:
            part, width = DynamicCache(config=self.model.config), int(self.lengths_B[rows].max())
            found.append(self._logits(self.ids[rows, -width:], self.padding_B[rows] - (self.longest - width), part, width))
            for layer, own in zip(self.cache.layers, part.layers, strict=True):
                layer.place(rows, self.count, self.longest, own)
        order = torch.tensor([row for rows in groups for row in rows], device=self.device).argsort()
        return torch.cat(found)[order]

    def _forward(self, t: int) -> Tensor:
        """Logits (rows, V) of the next token; the ids given since the last call enter the cache."""
        return self._logits(self.ids, self.padding_B, self.cache, self.longest + t)

    def _logits(self, ids: Tensor, padding_B: Tensor, cache: Any, width: int) -> Tensor:
        """Logits (rows, V) float32 of what follows `ids`, the last of `width` tokens with the padding before them; they enter the cache."""
        first = width - ids.size(1)
        positions = (torch.arange(first, width, device=self.device) - padding_B[:, None]).clamp(min=0)
        mask = (torch.arange(width, device=self.device) >= padding_B[:, None]).long() if bool(padding_B.any()) else None
        if mask is not None and self.virtual:
            mask = torch.cat([mask.new_ones(mask.size(0), self.virtual), mask], dim=1)
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions + self.virtual,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _leave(self, alive_B: Tensor) -> bool:
        """Drop finished rows if enough have; whether any are left."""
        alive = int(alive_B.sum())
        if alive and alive <= (1.0 - LEAVING_SHARE) * len(alive_B):
            keep = alive_B.nonzero()[:, 0]
            self.cache.batch_select_indices(keep)
            self.ids, self.rows_B, self.padding_B = self.ids[keep], self.rows_B[keep], self.padding_B[keep]
        return alive > 0

"""Log-probabilities, entropies and values of answers, by one forward pass over prompt and answer together.

Rows are padded on the *right*: with causal attention no real token sees a pad, so neither attention mask nor position ids are needed, for any
architecture. Which tokens are real follows from lengths, never from `ids != pad` (where pad is eos, that would drop the end of every answer).
The output layer runs on the positions that predict answer tokens only, and in chunks: whole logits are the memory peak of every PPO we know.

Legend: B rows, L tokens of the longest prompt and answer, T of the longest answer, N real answer tokens (row by row), H hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stages.adapters.prompts import hidden_states
from stages.contract import StageError
from stages.core.parity import fixed_ids, outputs
from stages.core.watchdog import beat

LOGITS_AT_ONCE = 1 << 25
"""Most logits (positions x vocabulary) held at once: 128 MiB in fp32."""
TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 8192}
"""Most tokens, padding included, of one forward pass where the rows of a micro-batch are not given. What a larger pass leaves behind is no longer in
a CPU's caches when it is needed again, and shorter micro-batches are padded less: an update in passes of 8192 takes 1.4 times as long."""


HEAD_TOLERANCE = 0.1
"""Allowed difference of log-probabilities from those of the model's own logits, in nats and on average: a scale left out is far above it, and the 16-bit
arithmetic of a quantised model, whose single tokens may differ by more between batches of other shapes, is below."""


class Batch(NamedTuple):
    """Rows ready for a forward pass. The output at (row, column) predicts the answer token `target`."""

    ids_BL: Tensor
    row_N: Tensor
    column_N: Tensor
    target_N: Tensor


def batch_of(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Batch:
    """Prompts and answers side by side, padded on the right with 0. A prompt must have a token: something has to predict the answer's first."""
    length = max(len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True))
    ids: list[list[int]] = []
    row: list[int] = []
    column: list[int] = []
    target: list[int] = []
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        ids.append([*prompt, *completion] + [0] * (length - len(prompt) - len(completion)))
        row += [number] * len(completion)
        column += range(len(prompt) - 1, len(prompt) + len(completion) - 1)
        target += completion
    return Batch(*(torch.tensor(numbers, dtype=torch.long, device=device) for numbers in (ids, row, column, target)))


def cut(lengths: Sequence[int], rows: int | None, tokens: int) -> list[list[int]]:
    """Row numbers sorted by length and cut into micro-batches of at most `rows` rows; else of at most `tokens` tokens, padding included."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        full = not batches or (len(batches[-1]) >= rows if rows else (len(batches[-1]) + 1) * lengths[index] > tokens)
        if full:
            batches.append([])
        batches[-1].append(index)
    return batches


def passes(lengths: Sequence[int], rows: int | None, device: torch.device | str) -> list[list[int]]:
    """As `cut`, for forward passes on a device."""
    kind = torch.device(device).type
    return cut(lengths, rows, TOKENS_AT_ONCE["cpu" if kind == "cpu" else "cuda"])


def arithmetic(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast to `dtype`; nothing is changed for float32. Weights stay as they are stored."""
    return torch.autocast(device.type, dtype=dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32)


class TokenLogprobs(nn.Module):
    """A causal language model (bare, or inside a peft model) whose forward pass gives what PPO needs of it, and no logits.

    A module of its own, so that an engine (DDP, DeepSpeed) can wrap *it*: a forward pass that reaches around the wrapper loses gradients.
    """

    def __init__(self, model: Any, temperature: float = 1.0, dtype: torch.dtype = torch.float32) -> None:
        """`dtype` is the arithmetic of the model's own layers; log-probabilities are float32 whatever it is."""
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.dtype = dtype
        self.softcap: float | None = getattr(model.config, "final_logit_softcapping", None)
        self.rounds: Callable[[int], int] = lambda own: own
        """How often the head is asked in place of as often as is needed, where several processes hold its weights together."""
        self.kept: dict[int, tuple[Tensor, Tensor]] | None = None
        """Where another head reads along: hidden states of the last passes with gradients, detached, by the batch that they are of."""

    def forward(self, batch: Batch, with_entropy: bool = False, temperature: float | None = None) -> tuple[Tensor, Tensor | None]:
        """Log-probability of every target and, if asked, the entropy of its distribution: (N) float32 each, at the sampling or another temperature."""
        hidden_NH = self.hidden(batch)
        if self.kept is not None and torch.is_grad_enabled():
            self.kept[id(batch.ids_BL)] = (batch.ids_BL, hidden_NH.detach())  # holding the batch, so that no other gets its id
        return self.of_hidden(hidden_NH, batch.target_N, with_entropy, temperature)

    def hidden(self, batch: Batch) -> Tensor:
        """The trunk's last hidden states before each target: (N, H)."""
        with arithmetic(batch.ids_BL.device, self.dtype):
            hidden_BLH = hidden_states(self.model, self.model.get_decoder(), batch.ids_BL)
        return hidden_BLH[batch.row_N, batch.column_N]

    def take_hidden(self, batch: Batch) -> Tensor | None:
        """What `forward` has kept of this batch, once."""
        found = self.kept.pop(id(batch.ids_BL), None) if self.kept is not None else None
        return None if found is None else found[1]

    def of_hidden(
        self, hidden_NH: Tensor, target_N: Tensor, with_entropy: bool = False, temperature: float | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `forward`, from the hidden states."""
        head = self.model.get_output_embeddings()
        temperature = self.temperature if temperature is None else temperature
        step = max(1, LOGITS_AT_ONCE // getattr(head.weight, "ds_shape", head.weight.shape)[0])  # in shards it has no shape of its own
        pieces = list(zip(torch.split(hidden_NH, step), torch.split(target_N, step), strict=True))
        idle = self.rounds(len(pieces)) - len(pieces)
        if len(pieces) + idle == 1:
            return self._of_hidden(hidden_NH, target_N, head, with_entropy, temperature)
        parts = [
            # Recomputed in the backward pass: kept, the chunks' logits would add up to the whole again.
            checkpoint(self._of_hidden, hidden, target, head, with_entropy, temperature, use_reentrant=False)
            for hidden, target in pieces + pieces[:1] * idle
        ]
        logp_N = torch.cat([part[0] for part in parts[: len(pieces)]])
        for part in parts[len(pieces) :]:  # in the graph, so that the backward pass asks the head as often too
            logp_N = logp_N + 0.0 * part[0].sum()
        return logp_N, torch.cat([part[1] for part in parts[: len(pieces)]]) if with_entropy else None

    def _of_hidden(
        self, hidden_NH: Tensor, target_N: Tensor, head: nn.Module, with_entropy: bool, temperature: float
    ) -> tuple[Tensor, Tensor | None]:
        with arithmetic(hidden_NH.device, self.dtype):
            logits_NV = head(hidden_NH)
        logits_NV = logits_NV.float()
        if self.softcap is not None:
            logits_NV = torch.tanh(logits_NV / self.softcap) * self.softcap
        return chosen_logprobs(logits_NV, target_N, temperature, with_entropy)


@torch.no_grad()
def check_head(model: Any) -> None:
    """Raises StageError where a causal model makes more of its output layer than `TokenLogprobs` knows of (some scale their logits): what answers are
    drawn from would not be what their log-probabilities are of. Costs one small forward pass each way, without dropout, and leaves the model in its mode; weights in shards are passed over."""
    if any(hasattr(parameter, "ds_id") or parameter.is_meta for parameter in model.parameters()):
        return
    ids_BL, was_training = fixed_ids(model), model.training
    model.eval()  # two passes with dropout would differ whatever the head does
    own_N = outputs(model, ids_BL)[:, :-1].log_softmax(-1).gather(-1, ids_BL[:, 1:, None]).flatten()
    rows = ids_BL.tolist()
    found_N, _ = TokenLogprobs(model)(batch_of([row[:1] for row in rows], [row[1:] for row in rows], ids_BL.device))
    model.train(was_training)
    difference = float((found_N - own_N).abs().mean())
    if not difference <= HEAD_TOLERANCE:
        raise StageError(
            f"{type(model).__name__} computes its logits in a way of its own behind the output layer: log-probabilities of its answers would be wrong "
            f"by {difference:.2g} nats a token; wanted a model whose logits are what its output layer gives"
        )


def chosen_logprobs(logits_NV: Tensor, target_N: Tensor, temperature: float, with_entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """log softmax(logits / temperature) of the targets and, if asked, the entropies: (N) each. The one formula of sampler and trainer."""
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    normaliser_N = logits_NV.logsumexp(dim=-1)
    logp_N = logits_NV.gather(-1, target_N[:, None])[:, 0] - normaliser_N
    if not with_entropy:
        return logp_N, None
    return logp_N, normaliser_N - ((logits_NV - normaliser_N[:, None]).exp() * logits_NV).sum(dim=-1)


class TokenValues(nn.Module):
    """A decoder with a scalar head in fp32: the value of the state *before* each answer token, at the position that predicts it."""

    def __init__(self, backbone: Any, hidden_size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.backbone = backbone
        self.dtype = dtype
        self.head = nn.Linear(hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Values (N) float32."""
        with arithmetic(batch.ids_BL.device, self.dtype):
            hidden_BLH = self.backbone(input_ids=batch.ids_BL, use_cache=False).last_hidden_state
        values_N1: Tensor = self.head(hidden_BLH[batch.row_N, batch.column_N].float())
        return values_N1[:, 0]


@dataclass(frozen=True)
class Sweep:
    """Answers cut into length-sorted micro-batches, and the way back: what a forward pass gives per real token becomes (B, T) in the rows' order."""

    prompts: Sequence[Sequence[int]]
    completions: Sequence[Sequence[int]]
    micro_batch: int | None = None
    device: torch.device | str = "cpu"

    @property
    def mask_BT(self) -> Tensor:
        """True on real answer tokens."""
        lengths_B = torch.tensor([len(completion) for completion in self.completions])
        return torch.arange(int(lengths_B.max())) < lengths_B[:, None]

    def batches(self) -> Iterator[tuple[list[int], Batch]]:
        lengths = [len(prompt) + len(completion) for prompt, completion in zip(self.prompts, self.completions, strict=True)]
        for rows in passes(lengths, self.micro_batch, self.device):
            yield rows, batch_of([self.prompts[i] for i in rows], [self.completions[i] for i in rows], self.device)

    @torch.no_grad()
    def over(
        self, forward: Callable[[Batch], tuple[Tensor | None, ...]], rounds: Callable[[int], int] = lambda own: own
    ) -> tuple[Tensor, ...]:
        """Every output of `forward` (each (N) of its micro-batch) as (B, T) float32 on the CPU, 0 where masked. No gradients.

        `rounds` says how many passes to make in place of as many as are needed; what is asked only to be there is asked again and dropped.
        """
        mask_BT, batches = self.mask_BT, list(self.batches())
        found: list[Tensor] = []
        # Asked before the first pass: passes ask too, and the processes must ask in one order.
        idle = rounds(len(batches)) - len(batches)
        for rows, batch in batches:
            beat()
            outputs = [output for output in forward(batch) if output is not None]
            found = found or [torch.zeros(mask_BT.shape) for _ in outputs]
            for whole_BT, output_N in zip(found, outputs, strict=True):
                part_BT = torch.zeros(len(rows), mask_BT.size(1))
                part_BT[mask_BT[rows]] = output_N.float().cpu()
                whole_BT[rows] = part_BT
        for _ in range(idle):
            forward(batches[0][1])
        return tuple(found)


def completion_logprobs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float = 1.0,
    micro_batch: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T) float32 of the answers' tokens under a causal language model, 0 where masked, and the mask. No gradients."""
    scorer = TokenLogprobs(model, temperature)
    sweep = Sweep(prompts, completions, micro_batch, next(model.parameters()).device)
    return sweep.over(scorer)[0], sweep.mask_BT

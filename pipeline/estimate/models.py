"""The models of a recipe by what its stages and folders say of them: their shapes, without a weight being read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.artifacts import inspect
from pipeline.errors import RecipeError
from pipeline.estimate.adapters import trainable
from pipeline.estimate.shapes import Head, Shape, of_folder, of_settings
from pipeline.plan import Plan, Step
from pipeline.references import Reference
from stages.core.config import Llama
from stages.core.workload import Player, Workload


@dataclass(frozen=True)
class Model:
    """A model as a stage takes it."""

    shape: Shape
    head: Head = "words"
    apart: int = 0
    """Parameters of adapters that are not merged into it."""
    base: str = ""
    """What names its weights without those adapters."""
    mapped: bool = True
    """Whether its file holds fp32, as every stage's does: processes then read the same pages of it, and none has a copy."""


class Models:
    """Finds the model behind each reference of a recipe."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.recipe = plan, plan.recipe
        self.vocabularies: dict[str, int | None] = {}
        self.left: dict[str, Model | None] = {}

    def of_step(self, step: Step) -> dict[str, Model]:
        """The models that a stage takes or builds, by field; and note what it leaves. Raises RecipeError where one cannot be told."""
        config, found = step.config, {}
        references = self.recipe.references[step.name]
        tokens = {ref.field: self._vocabulary(ref) for ref in references if "tokenizer" in ref.kinds}
        self.vocabularies[step.name] = self._stated(step) or config.vocabulary(next(iter(tokens.values()), None))
        for ref in references:
            if {"causal-lm", "reward-model"} & set(ref.kinds) and "tokenizer" not in ref.kinds:
                found[ref.field] = self._taken(ref, step.name)
        own = getattr(config, "model", None)
        if isinstance(own, Llama):
            if (vocabulary := tokens.get("tokenizer")) is None:
                raise RecipeError(f"stages.{step.name}.tokenizer: its number of tokens is not known yet; run the tokenizer stage first")
            found["model"] = Model(of_settings(own, vocabulary), base=step.name)
        elif "model" in found and tokens.get("tokenizer"):
            shape = found["model"].shape.with_vocabulary(tokens["tokenizer"])
            found["model"] = replace(found["model"], shape=shape)
        self.left[step.name] = self._leaves(step, config.workload(), found)
        return found

    def _leaves(self, step: Step, work: Workload | None, found: Mapping[str, Model]) -> Model | None:
        if type(step.config).makes not in ("causal-lm", "reward-model") or work is None:
            return None
        first = work.players[0]
        start = found[first.field]
        head: Head = "score" if type(step.config).makes == "reward-model" else "words"
        if first.adapter is None or first.adapter.hand_over == "merge":
            return Model(start.shape, head, base=step.name)
        earlier = 0 if first.adapter.hand_over == "continue" else start.apart
        return Model(start.shape, head, earlier + trainable(first.adapter, start.shape, head), start.base)

    def _taken(self, ref: Reference, stage: str) -> Model:
        if ref.form == "stage":
            model = self.left.get(ref.value)
            if model is None:
                raise RecipeError(f"stages.{stage}.{ref.field}: what '{ref.value}' leaves cannot be told")
            return model
        head: Head = "score" if "causal-lm" not in ref.kinds else "words"
        folder = self._folder(ref)
        return Model(of_folder(folder), head, base=ref.value, mapped=_is_fp32(folder))

    def _folder(self, ref: Reference) -> Path:
        """Where a model's config.json lies: its folder, that of an adapter's base, or the Hub's cache."""
        if ref.form == "hub":
            return described_on_hub(ref.value, self.plan.run.pins())
        folder = self.recipe.root / ref.value
        adapter = folder / "adapter_config.json"
        if not (folder / "config.json").is_file() and adapter.is_file():
            return folder / str(json.loads(adapter.read_bytes()).get("base_model_name_or_path"))
        return folder

    def _vocabulary(self, ref: Reference) -> int | None:
        """How many tokens a tokenizer has, or the one beside a model."""
        if ref.form == "stage":
            model = self.left.get(ref.value)
            return self.vocabularies.get(ref.value) or (model.shape.vocabulary if model else None)
        if ref.form == "hub":
            return of_folder(self._folder(ref)).vocabulary
        return vocabulary_in(self.recipe.root / ref.value)

    def _stated(self, step: Step) -> int | None:
        found = inspect(step.folder.artifact) if step.manifest is not None else None
        return getattr(found, "vocab_size", None)


def _is_fp32(folder: Path) -> bool:
    """Whether a model's configuration says so of its file; without a word it is."""
    said = json.loads((folder / "config.json").read_bytes())
    return str(said.get("dtype") or said.get("torch_dtype") or "float32") == "float32"


def vocabulary_in(folder: Path) -> int | None:
    """Tokens of the tokenizer in a folder; those of its model's embeddings where there is none."""
    if (folder / "tokenizer.json").is_file():
        tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
        ids = [*tokenizer["model"]["vocab"].values()] if isinstance(tokenizer["model"].get("vocab"), dict) else []
        return max([*ids, *(token["id"] for token in tokenizer.get("added_tokens", []))], default=-1) + 1 or None
    return of_folder(folder).vocabulary if (folder / "config.json").is_file() else None


def described_on_hub(name: str, pins: Mapping[str, str]) -> Path:
    """Folder with the config.json of a Hub model: from the cache, or that one file is fetched. Raises RecipeError where neither can be had."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from pipeline.references import repository

    wanted = repository(name)
    owner, _, revision = wanted.partition("@")
    commit = pins.get(f"model {wanted}") or revision or None
    cached = try_to_load_from_cache(owner, "config.json", revision=commit)
    if isinstance(cached, str):
        return Path(cached).parent
    try:
        return Path(hf_hub_download(owner, "config.json", revision=commit)).parent
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise RecipeError(
            f"{name}: its config.json cannot be had, and its size is told from it: {' '.join(str(error).split())[:200]}"
        ) from error


@dataclass(frozen=True)
class Held:
    """A player with the numbers of its model."""

    player: Player
    shape: Shape
    head: Head
    frozen: float
    """Parameters that lie in memory for it and do not train."""
    trained: float
    quantised: float = 0.0
    """Of the frozen ones, those held in four bits."""
    adapter: int | None = None
    """Parameters of the adapter that it trains."""
    mapped: bool = True
    """As of its model."""

    @property
    def parameters(self) -> float:
        return self.frozen + self.trained


def players(work: Workload, models: Mapping[str, Model]) -> list[Held]:
    """Every player of a stage. One on another's weights has only what is its own."""
    found: list[Held] = []
    for player in work.players:
        model = models[player.field]
        policy = models[work.players[0].field]
        # A reward model lies on the policy's base only where it is an adapter on that very base.
        judge = player.on is not None and player.head == "score"
        shares = player.on is not None and not (judge and not (model.apart and model.base == policy.base))
        found.append(replace(_held(player, model, shares=shares), mapped=model.mapped))
    return found


def _held(player: Player, model: Model, *, shares: bool) -> Held:
    shape, own = model.shape, model.shape.head(player.head)
    whole = 0 if shares else shape.parameters(player.head) + model.apart
    if player.trunk:
        h = shape.hidden
        return Held(player, shape, player.head, 0, (h + 1) * 2 * h + 2 * h + 1)
    if player.adapter is not None:
        adapter = trainable(player.adapter, shape, player.head)
        value = own if player.head == "value" else 0
        quantised = float(shape.linear) if not shares and player.adapter.label == "QLoRA" else 0.0
        return Held(player, shape, player.head, whole, adapter + value, quantised, adapter)
    if player.learns:
        return Held(player, shape, player.head, 0, whole)
    apart = model.apart + own if shares and player.head == "score" else 0
    return Held(player, shape, player.head, whole or apart, 0)

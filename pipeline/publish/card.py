"""The model card of a stage, written from its manifest. Text of users and models goes in escaped or fenced only; `markdown.py` says how."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.publish import facts, snippets
from pipeline.publish.finished import Finished, evaluations
from pipeline.publish.markdown import Markup, fenced, link, number, plain, table
from pipeline.publish.places import Place
from pipeline.publishing import MAIN
from stages.contract import Table

WHAT = {
    "causal-lm": "A causal language model",
    "reward-model": "A reward model: it gives a conversation one score, higher for the better answer",
    "tokenizer": "A tokenizer with its chat template",
}
TASKS = {"causal-lm": "text-generation", "reward-model": "text-classification"}
LIMITS = {
    "causal-lm": (
        "It can state what is false, repeat what its data says, and answer what it should not. It was judged only by the numbers above. "
        "Look at its answers on your own prompts before you build on it."
    ),
    "reward-model": (
        "It reflects the comparisons it was trained on, and orders answers to prompts like those; its absolute value means nothing across prompts. "
        "A policy that is trained against it long enough finds answers that score well and are not good."
    ),
    "tokenizer": "Its vocabulary was learned from the data above: other languages and notations take more tokens. A model needs the very tokenizer it was trained with.",
}
SHOWN_ROWS = 40
"""Rows of an evaluation's table in the card."""


def write_card(
    stage: Finished, place: Place, links: Mapping[str, Place], *, licence: str | None, base: Place | None, notes: Sequence[str] = ()
) -> str:
    """README.md of a place; the same text for the same run. `links` has the places of ancestors by fingerprint, `base` is that of adapters."""
    from jinja2 import Environment, StrictUndefined

    template = Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
    repository, places = place.repository, facts.places_of(stage)
    # Nothing here is HTML: what is put in was escaped for Markdown, which autoescape would do twice and wrongly.
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)  # noqa: S701
    recipe = facts.recipe_of(stage)
    return environment.from_string(template).render(
        head=metadata(stage, place, links, licence=licence),
        title=plain(_name(place)),
        what=_what(stage),
        snippet=fenced(snippets.loading(stage, place, base), "python"),
        about=_about(stage),
        lineage=_lineage(stage, links),
        data=_data(stage),
        notes="\n".join(f"- {plain(facts.without_places(note, places))}" for note in stage.notes),
        evaluation=_evaluation(stage),
        tables=_tables(stage),
        samples=[{"title": plain(name), "text": fenced(facts.without_places(text, places), "text")} for name, text in facts.samples(stage)],
        limits=LIMITS[stage.artifact.kind],
        made=_made(stage),
        training=_training(stage),
        settings=fenced(json.dumps(facts.without_places(stage.settings, places), indent=2, ensure_ascii=False), "json"),
        recipe=fenced(facts.without_places(recipe, places), "yaml") if recipe else "",
        licence=_licence(licence, notes),
        citation=fenced(_citation(stage, repository), "bibtex"),
    )


def _name(place: Place) -> str:
    """What the model of a place is called: the repository, and the stage where they share it."""
    name = place.repository.split("/")[-1]
    return f"{name}-{place.folder}" if place.folder else name


def metadata(stage: Finished, place: Place, links: Mapping[str, Place], *, licence: str | None) -> str:
    """The YAML head, through the client's own classes."""
    from huggingface_hub import EvalResult, ModelCardData

    task = TASKS.get(stage.artifact.kind)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=f"{stage.run.path.name}-{score.where}",
            dataset_name=f"held-out data of {stage.run.path.name}/{score.where}",
            metric_type=score.metric,
            metric_value=score.value,
            metric_name=score.metric,
        )
        for score in facts.scores(stage)
        if task is not None  # a tokenizer answers no task that could be scored
    ]
    data = ModelCardData(
        license=licence or "other",
        license_name=None if licence else "not-stated",
        library_name="peft" if snippets.adapters_of(stage) else "transformers",
        pipeline_tag=task,
        base_model=[base for base in _bases(stage, links) if base != place.repository] or None,
        datasets=_datasets(stage) or None,
        tags=["alignment-pipeline", stage.kind or stage.artifact.kind],
        model_name=_name(place) if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _bases(stage: Finished, links: Mapping[str, Place]) -> list[str]:
    """Repositories of the models that this one continues; a tokenizer, a reward model or a data set is no base."""
    found = []
    for origin in stage.origins:
        if origin.field == "model" and (link := links.get(origin.fingerprint)):
            found.append(link.repository)
        elif origin.field == "model" and origin.reference.startswith(facts.HUB):
            found.append(origin.reference.removeprefix(facts.HUB).partition("@")[0])
    return found


def _datasets(stage: Finished) -> list[str]:
    names = [
        datum.name.partition("@")[0].partition(":")[0]
        for one in [*stage.ancestors(), stage]
        for datum in facts.data_of(one)
        if datum.size is None
    ]
    return sorted({name for name in names if name.count("/") == 1})


def _what(stage: Finished) -> str:
    how = f", made by stage {plain(stage.name)} ({plain(stage.kind)}) of run {plain(stage.run.path.name)}" if stage.kind else ""
    if snippets.adapters_of(stage):
        return f"{WHAT[stage.artifact.kind]}{how}, as an adapter on its base. It loads with plain transformers and peft; no code from this repository is run."
    return f"{WHAT[stage.artifact.kind]}{how}. It loads with plain transformers; no code from this repository is run."


def _about(stage: Finished) -> str:
    artifact = stage.artifact
    rows: list[list[object]] = [
        ["kind", artifact.kind],
        ["parameters", artifact.parameters],
        ["trained in this stage", artifact.trainable_parameters],
        ["vocabulary", artifact.vocab_size],
        ["context, in tokens", artifact.context_length],
        ["mean reward, held out", artifact.reward_mean],
        ["deviation of rewards, held out", artifact.reward_std],
        ["largest difference after reloading", artifact.reload_difference],
        ["tokenizer, SHA-256", artifact.tokenizer_digest],
        ["chat template, SHA-256", artifact.template_digest],
        ["fingerprint of the stage", stage.fingerprint],
        ["digest of the result", stage.digest],
    ]
    return _facts([row for row in rows if row[1] is not None])


def _facts(rows: list[list[object]]) -> str:
    return "\n".join(f"- {name}: {number(value)}" for name, value in rows)


def _lineage(stage: Finished, links: Mapping[str, Place]) -> str:
    rows: list[list[object]] = [
        [one.name, one.kind or one.artifact.kind, one.fingerprint, one.digest, _link(links.get(one.fingerprint))]
        for one in stage.ancestors()
    ]
    for origin in stage.origins:
        if stage.made_from(origin) is None:
            name = origin.reference if origin.reference.startswith(facts.HUB) else Path(origin.reference).name
            rows.insert(0, [name, "outside the run", origin.fingerprint or None, origin.digest, None])
    return table(["stage", "kind", "fingerprint", "digest", "repository"], rows) if rows else ""


def _link(place: Place | None) -> Markup | None:
    if place is None:
        return None
    inside = f"/tree/{place.revision}{f'/{place.folder}' if place.folder else ''}" if place.folder or place.revision != MAIN else ""
    return link(str(place), f"{place.repository}{inside}")


def _data(stage: Finished) -> str:
    rows: list[list[object]] = [[one.field, one.name, one.size, one.digest] for one in facts.data_of(stage)]
    return table(["setting", "file", "bytes", "SHA-256 or commit"], rows) if rows else ""


def _evaluation(stage: Finished) -> str:
    rows: list[list[object]] = [[one.where, one.metric, one.value] for one in facts.scores(stage)]
    return table(["measured by", "metric", "value"], rows) if rows else ""


def _training(stage: Finished) -> str:
    rows: list[list[object]] = [[one.metric, one.value] for one in facts.training_numbers(stage)]
    return table(["metric", "value"], rows) if rows else ""


def _tables(stage: Finished) -> list[dict[str, str]]:
    """Tables of the stage and of the evaluations that judged it, as they are."""
    found: list[tuple[str, Table]] = [(stage.name, one) for one in stage.tables]
    found += [(report.name, one) for report in evaluations(stage) for one in report.tables]
    return [
        {"title": plain(f"{one.title} ({where})"), "table": table(one.columns, [list(row) for row in one.rows[:SHOWN_ROWS]])}
        for where, one in found
        if one.columns and all(len(row) == len(one.columns) for row in one.rows)
    ]


def _made(stage: Finished) -> str:
    """Hardware, hours, versions: as noted when the stage ran."""
    noted, took = facts.surroundings(stage), facts.seconds(stage)
    versions, hardware = noted.get("versions") or {}, noted.get("hardware") or {}
    rows: list[list[object]] = [
        ["steps", stage.manifest.get("steps")],
        ["hours", None if took is None else round(took / 3600, 4)],
        ["energy", facts.energy(stage)],
        ["finished", stage.manifest.get("finished")],
        ["asked of the hardware", _listed(hardware) or None],
        ["platform", noted.get("platform")],
        ["CPU cores", noted.get("cores")],
        ["versions", _listed(versions) or None],
        ["Python", noted.get("python")],
        ["commit of the pipeline", noted.get("commit")],
        ["seed", stage.job.get("seed")],
    ]
    return _facts([row for row in rows if row[1] is not None])


def _listed(values: Any) -> str:
    if not isinstance(values, Mapping):
        return str(values)
    return ", ".join(
        f"{name} {value}" for name, value in sorted(values.items()) if value is not None and not isinstance(value, dict | list)
    )


def _licence(licence: str | None, notes: Sequence[str]) -> str:
    told = "".join(f"\n\nIt was {plain(note)}." for note in notes)
    if licence is None:
        return (
            "No licence was stated: ask the owner before you use, change or pass on this model. The licences of its data and of the models it comes from hold as well."
            + told
        )
    return f"{plain(licence)}. The licences of the data and of the models that it comes from hold as well.{told}"


def _citation(stage: Finished, repository: str) -> str:
    key = "".join(char if char.isalnum() else "-" for char in repository)
    title = f"{repository.split('/')[-1]}: stage {stage.name} of run {stage.run.path.name}, fingerprint {stage.fingerprint}"
    return f"@misc{{{key},\n  title = {{{title}}},\n  author = {{{repository.split('/')[0]}}},\n  howpublished = {{Hugging Face Hub, {repository}}}\n}}"

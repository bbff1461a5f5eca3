"""The page of a repository that holds a whole family: which model lies where, and how to load each."""

from collections.abc import Mapping, Sequence

from pipeline.publish import snippets
from pipeline.publish.files import base_of
from pipeline.publish.finished import Finished
from pipeline.publish.markdown import fenced, plain, table
from pipeline.publish.places import Place


def family_card(stages: Sequence[tuple[Finished, Place]], links: Mapping[str, Place], licence: str | None) -> str:
    """README.md of the repository; each model's own card lies beside its files. `links` has the places of all stages by fingerprint."""
    from huggingface_hub import ModelCardData

    head = ModelCardData(
        license=licence or "other",
        license_name=None if licence else "not-stated",
        library_name="transformers",
        tags=["alignment-pipeline", "family"],
    )
    rows: list[list[object]] = [
        [stage.name, stage.kind, place.folder or place.revision, stage.fingerprint, stage.digest] for stage, place in stages
    ]
    title = plain(stages[0][1].repository.split("/")[-1])
    parts = [
        f"---\n{head.to_yaml()}\n---\n\n# {title}",
        f"The models of run {plain(stages[0][0].run.path.resolve().name)}, from the first to the last. Each has a card of its own.",
        table(["stage", "kind", "folder" if stages[0][1].folder else "branch", "fingerprint", "digest"], rows),
    ]
    for stage, place in stages:
        parts.append(f"## {plain(stage.name)}\n\n{fenced(snippets.loading(stage, place, base_of(stage, links)), 'python')}")
    return "\n\n".join(parts) + "\n"

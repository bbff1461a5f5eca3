"""Whether models from outside, which a run began from, may be passed on: by what their own cards say."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.publish.errors import ChoiceError
from pipeline.publish.finished import Finished
from pipeline.publishing import Publishing

HUB = "hub:"
PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "cc0-1.0", "unlicense", "zlib", "cc-by-4.0")
"""Licences under which what is made from a model may be passed on under any other, with the notice kept."""


@dataclass(frozen=True)
class Outside:
    """A model that no stage of the run made."""

    name: str
    """`owner/name`, or the last part of a folder's path."""
    revision: str | None
    folder: Path | None


def check_licences(stages: Sequence[Finished], how: Publishing, ask: Callable[[str, str | None], str | None] | None) -> list[str]:
    """Notes on the licences of models from outside. `ask` tells the licence of a repository; None where no network may be asked.

    Raises:
        ChoiceError: there is no word on a licence that is needed.
    """
    found = {one.name: one for stage in stages for one in outside(stage)}
    if not found:
        return []
    if how.license is None:
        names = ", ".join(sorted(found))
        raise ChoiceError(f"made from {names}: read its licence, and say with --license under which licence this may be passed on")
    return [_judged(one, how, ask) for one in found.values()]


def outside(stage: Finished) -> Iterator[Outside]:
    """Models from the Hub or from local folders, of this stage and its ancestors."""
    for one in [*stage.ancestors(), stage]:
        for origin in one.origins:
            if origin.reference.startswith(HUB):
                name, _, revision = origin.reference.removeprefix(HUB).partition("@")
                yield Outside(name, revision or None, None)
            elif one.made_from(origin) is None and (path := one.job.get("inputs", {}).get(origin.field, {}).get("path")):
                yield Outside(Path(path).name, None, Path(path))


def _judged(one: Outside, how: Publishing, ask: Callable[[str, str | None], str | None] | None) -> str:
    if one.name in how.acknowledge:
        return f"made from {one.name}, whose licence you have acknowledged"
    if one.folder is None and ask is None:
        return f"made from {one.name}: its licence is looked up when this is sent"
    licence = stated(one.folder / "README.md") if one.folder is not None else ask(one.name, one.revision) if ask else None
    if licence in PERMISSIVE or (licence is not None and licence == how.license):
        return f"made from {one.name}, which is under {licence}: keep its notice"
    what = f"which is under {licence}" if licence else "which states no licence"
    raise ChoiceError(
        f"made from {one.name}, {what}, and this is to be under {how.license}: read its licence, and if it allows that, say so with --acknowledge {one.name}"
    )


def stated(card: Path) -> str | None:
    """The licence in a model card's head; None if there is none."""
    from huggingface_hub import ModelCard

    try:
        return str(ModelCard.load(card).data.to_dict().get("license") or "") or None
    except (OSError, ValueError):
        return None

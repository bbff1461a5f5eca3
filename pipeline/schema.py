"""The JSON Schema of recipes, for editors and other programs."""

from typing import Any

from pydantic.json_schema import models_json_schema

from pipeline.descriptions import descriptions, models_in
from pipeline.names import NAME
from pipeline.recipe import Head
from stages.registry import STAGES, config_class


def recipe_schema() -> dict[str, Any]:
    """A schema in which `kind` decides what a stage may hold."""
    models: list[Any] = [Head, *(config_class(kind) for kind in STAGES)]
    places, whole = models_json_schema([(model, "validation") for model in models], ref_template="#/$defs/{model}")
    definitions = whole["$defs"]
    for model in models:
        for inner in models_in(model):
            _describe(definitions.get(inner.__name__, {}), inner)
    head = definitions.pop(places[(Head, "validation")]["$ref"].removeprefix("#/$defs/"))
    kinds = dict(zip(STAGES, (places[(model, "validation")] for model in models[1:]), strict=True))
    for kind in kinds:
        stage = definitions[kinds[kind]["$ref"].removeprefix("#/$defs/")]
        stage["required"] = ["kind", *(name for name in stage.get("required", []) if name != "kind")]
    stage = {"type": "object", "required": ["kind"], "properties": {"kind": {"enum": list(kinds)}}}
    stage["allOf"] = [
        {"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": place} for kind, place in kinds.items()
    ]
    head["properties"]["stages"] |= {"additionalProperties": stage, "propertyNames": {"pattern": NAME}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **head, "title": "Recipe", "$defs": definitions}


def _describe(definition: dict[str, Any], model: Any) -> None:
    for name, text in descriptions(model).items():
        definition.get("properties", {}).get(name, {})["description"] = " ".join(text.split())

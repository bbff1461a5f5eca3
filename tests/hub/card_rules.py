"""What a Hub demands of the YAML block at the head of a model card (`POST /api/validate-yaml`). A sample of the public rules."""

import re
from typing import Any

import yaml

HEAD = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")
REPO_ID = re.compile(r"^(?!.*(?:--|\.\.))[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?(?:/[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?)?$")
LICENSES = {
    "apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "gpl-3.0", "agpl-3.0", "openrail",
    "llama2", "llama3", "llama3.1", "llama3.2", "gemma", "other", "unknown",
}  # fmt: skip
PIPELINE_TAGS = {"text-generation", "text-classification", "feature-extraction", "text-ranking"}


def front_matter(content: str) -> dict[str, Any] | None:
    """The head of a card as data; None where there is none that can be read."""
    match = HEAD.search(content)
    try:
        found = yaml.safe_load(match.group(2)) if match else None
    except yaml.YAMLError:
        return None
    return found if isinstance(found, dict) else None


def problems(content: str) -> tuple[list[str], list[str]]:
    """Errors and warnings, as sentences."""
    match = HEAD.search(content)
    if match is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(match.group(2))
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"], []
    if not isinstance(data, dict):
        return ['"metadata" must be an object'], []
    errors = [sentence for name, rule in RULES.items() if name in data for sentence in rule(name, data[name])]
    if data.get("license") == "other" and not data.get("license_name"):
        errors.append('"license_name" is required when "license" is "other"')
    return errors, []


def _licence(name: str, value: Any) -> list[str]:
    return [] if value in LICENSES else [f'"{name}" must be one of the known licences, not {value!r}']


def _repository_ids(name: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [f'"{name}": {one!r} is no repository id' for one in values if not (isinstance(one, str) and REPO_ID.match(one))]


def _texts(name: str, value: Any) -> list[str]:
    return (
        [] if isinstance(value, list) and all(isinstance(one, str) and one for one in value) else [f'"{name}" must be an array of strings']
    )


def _pipeline_tag(name: str, value: Any) -> list[str]:
    return [] if value in PIPELINE_TAGS else [f'"{name}" must be a known task']


def _language(name: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [f'"{name}" must be an ISO 639 code' for one in values if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", str(one))]


def _text(name: str, value: Any) -> list[str]:
    return [] if isinstance(value, str) and value else [f'"{name}" must be a string']


def _model_index(name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        return [f'"{name}" must be an array']
    errors = []
    for model in value:
        if not isinstance(model.get("name"), str):
            errors.append(f'"{name}[].name" is required')
        for result in model.get("results") or [{}]:
            errors += _result(name, result)
    return errors


def _result(name: str, result: dict[str, Any]) -> list[str]:
    errors = []
    if not isinstance(result.get("task", {}).get("type"), str):
        errors.append(f'"{name}[].results[].task.type" is required')
    for key in ("type", "name"):
        if not isinstance(result.get("dataset", {}).get(key), str):
            errors.append(f'"{name}[].results[].dataset.{key}" is required')
    for metric in result.get("metrics") or [{}]:
        if not isinstance(metric.get("type"), str) or not isinstance(metric.get("value"), int | float | str):
            errors.append(f'"{name}[].results[].metrics[]" needs type and value')
    return errors


RULES = {
    "license": _licence, "license_name": _text, "base_model": _repository_ids, "datasets": _repository_ids, "tags": _texts, "metrics": _texts,
    "pipeline_tag": _pipeline_tag, "language": _language, "library_name": _text, "model-index": _model_index,
}  # fmt: skip

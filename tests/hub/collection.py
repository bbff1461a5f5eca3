"""Collections of the test Hub: a named list of repositories."""

from dataclasses import dataclass, field
from typing import Any

from tests.hub.repository import RefusedError


@dataclass
class Collection:
    slug: str
    title: str
    owner: str
    private: bool
    description: str = ""
    items: dict[str, str] = field(default_factory=dict)
    """Notes by repository, in order."""

    def add(self, asked: dict[str, Any]) -> None:
        name = asked["item"]["id"]
        if asked["item"]["type"] != "model":
            raise RefusedError(400, "this Hub collects models only")
        if name in self.items:
            raise RefusedError(409, f"{name} is in this collection already")
        self.items[name] = asked.get("note", "")

    def shown(self) -> dict[str, Any]:
        items = [
            {"_id": f"item{number}", "id": name, "type": "model", "position": number, "note": {"text": note}}
            for number, (name, note) in enumerate(self.items.items())
        ]
        basics = {"slug": self.slug, "title": self.title, "owner": {"name": self.owner}, "private": self.private, "items": items}
        return {
            **basics,
            "description": self.description,
            "lastUpdated": "2026-01-01T00:00:00.000Z",
            "position": 0,
            "theme": "blue",
            "upvotes": 0,
        }

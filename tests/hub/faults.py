"""What can go wrong on the way, by plan: a test says which request fails, how, and how often."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Fault:
    """Meets the next `times` requests whose method and path fit, after letting `after` of them pass."""

    method: str
    path: str
    """Regular expression searched in the path."""
    status: int | None = None
    """Answered instead of doing what was asked."""
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    after: int = 0
    cut_request: int | None = None
    """Close the connection once so many bytes of the request's body have come."""
    cut_response: int | None = None
    """Do what was asked, then close the connection once so many bytes of the answer's body have gone."""
    then: Callable[[], None] | None = None
    """Called when a connection has been closed: by which a test ends the client."""
    revoke: bool = False
    """Forget every token first: someone revoked it half-way."""

    def meets(self, method: str, path: str) -> bool:
        if self.times == 0 or method != self.method or not re.search(self.path, path):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True)
class Seen:
    """One request that came in whole."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body_bytes: int
    status: int

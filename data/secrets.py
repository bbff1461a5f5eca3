"""Secrets: found before anything leaves the machine, and blotted out of what is shown or written."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

BLOT = "[secret removed]"

SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a Hugging Face token", re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})")),
    ("an API key", re.compile(r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{24,}")),
    ("an AWS key", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("a Google key", re.compile(r"\bAIza[A-Za-z0-9_-]{35}")),
    ("a Slack token", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{16,}")),
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    ("a password in an address", re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@'\"]{1,64}:[^\s/@'\"]{3,128}@[\w.-]")),
)
"""What secrets look like, whoever owns them."""

NAMES = re.compile(r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
"""Names of variables whose values are secrets."""

SHORTEST = 8
"""A shorter value is no secret worth the name, and would blot out ordinary words."""


@dataclass(frozen=True)
class Finding:
    """A secret, without the secret."""

    what: str
    line: int

    def __str__(self) -> str:
        return f"line {self.line} looks like {self.what}"


def secret_values(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Values of the variables whose names say that they are secret, longest first so that none hides inside another."""
    found = {value.strip() for name, value in variables.items() if NAMES.search(name) and len(value.strip()) >= SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))


def findings(text: str, known: Sequence[str] = ()) -> list[Finding]:
    """Where a text holds what looks like a secret, or one of the `known` values."""
    found = [Finding(what, text.count("\n", 0, start) + 1) for what, start, _ in _spans(text, known)]
    return sorted(dict.fromkeys(found), key=lambda one: one.line)


def redact(text: str, known: Sequence[str] = ()) -> str:
    """The text with every secret blotted out."""
    for secret in known:
        text = text.replace(secret, BLOT)
    for _, shape in SHAPES:
        text = shape.sub(BLOT, text)
    return text


def _spans(text: str, known: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    for secret in known:
        for match in re.finditer(re.escape(secret), text):
            yield "a secret of this machine's environment", *match.span()
    for what, shape in SHAPES:
        for match in shape.finditer(text):
            yield what, *match.span()

"""Text of others inside our Markdown. What a model, a user or a data set wrote must not become markup, HTML or a link of ours."""

import html
import re
from urllib.parse import quote

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""Control characters, and marks that turn the direction of text or its lines."""
MARKS = re.compile(
    r"[\\`*\[\]|#!~$@^<>&]"  # emphasis, code, links, images, cells, headings, mentions, HTML
    r"|(?<![a-z0-9])_|_(?![a-z0-9])"  # inside a word an underscore is only itself
    r"|:(?=/)|(?<=mailto):|(?<=xmpp):|(?<=www)\."  # addresses that would become links by themselves
    r"|^[-+](?=\s|$)|^-(?=-)|^=",  # lists and underlines
    re.IGNORECASE,
)
ORDINAL = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
"""What would begin a numbered list."""
ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def visible(text: str) -> str:
    """Control characters as escapes, so that what is there can be seen."""
    return CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text.replace("\r\n", "\n"))


def plain(text: object, longest: int = 300) -> str:
    """One line of running text or a table's cell: escaped, so that nothing in it is markup, a link or a mention."""
    line = " ".join(visible(str(text)).split())
    if len(line) > longest:
        line = line[: longest - 1] + "…"
    return ORDINAL.sub(r"\1\\\2", MARKS.sub(lambda match: ENTITIES.get(match[0], f"\\{match[0]}"), line))


def unescaped(text: str) -> str:
    """What a reader of the rendered text sees: `plain` taken back. A secret must be found through its escapes."""
    return html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text))


def fenced(text: str, language: str = "") -> str:
    """A code block with a fence longer than any run of backticks inside."""
    body = visible(text).strip("\n")
    longest = max((len(run) for run in re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{body}\n{fence}"


class Markup(str):
    """Markdown of our own making, which is not escaped again."""


def link(text: str, target: str) -> Markup:
    """A link to a place of the same Hub; `target` is its path there."""
    return Markup(f"[{plain(text)}](/{quote(target)})")


def number(value: object) -> str:
    """A number as a table shows it; text stays text, nothing is a dash."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return plain(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:.4g}"


def table(columns: list[str], rows: list[list[object]]) -> str:
    """A table; numbers stand to the right."""
    cells = [[row[n] for row in rows if row[n] is not None] for n in range(len(columns))]
    aligned = ["--:" if column and all(isinstance(cell, int | float) for cell in column) else "---" for column in cells]
    lines = [[plain(name) for name in columns], aligned, *([number(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

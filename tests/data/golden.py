"""What is learned of ten conversations in every template, as text: `⟦…⟧` marks the learned tokens.

`python -m tests.data.golden` writes the files anew; read the difference before you commit it.
"""

from itertools import groupby

from data.chat import render
from data.errors import DataError
from data.shape import rendered
from tests.data.chats import CHATS, HERE, SHAPES, TOOLS, Message, tokenizer

FOLDER = HERE / "golden"


def shown(name: str, messages: list[Message], tools: list[dict[str, object]] | None) -> str:
    """The rendered text with marks around learned tokens, or why it is refused."""
    fast = tokenizer(name)
    try:
        tokens = render(fast, messages, tools=tools)
    except DataError as error:
        return f"refused: {error}"
    text = rendered(fast, messages, tools)[0]
    starts = [begin for begin, _ in fast(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]]
    groups = [(learned, next(group)[0]) for learned, group in groupby(zip(starts, tokens.learn, strict=True), key=lambda pair: pair[1])]
    ends = [begin for _, begin in groups[1:]] + [len(text)]
    return "".join(f"⟦{text[begin:end]}⟧" if learned else text[begin:end] for (learned, begin), end in zip(groups, ends, strict=True))


def page(name: str) -> str:
    """All ten conversations in one template."""
    return "".join(
        f"=== {title}\n{shown(name, messages, TOOLS if title == 'tools' else None)}\n=== end\n\n" for title, messages in CHATS.items()
    )


if __name__ == "__main__":
    for name in SHAPES:
        (FOLDER / f"{name}.txt").write_text(page(name), encoding="utf-8")

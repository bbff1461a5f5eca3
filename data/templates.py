"""Chat templates for a new tokenizer, with generation markers: what stands between them is the assistant's and is learned.

`turns` spends one special token on each speaker and one on the end of a turn: `<|user|>Hi<|end|><|assistant|>Hello<|end|>`.
`chatml` is the ChatML form: `<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n`.
Both write tools into a first system turn and tool calls as JSON, one a line, in `<tool_call>` marks. The model's EOS and pad are other tokens: EOS ends a
document, the end-of-turn token ends an answer, pad is never learned.
"""

from dataclasses import dataclass

EOS, PAD = "<|eos|>", "<|pad|>"

_SYSTEM = """\
{%- if tools -%}
OPEN_SYSTEM
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif -%}
{{ 'Tools, one a line; call one with its name and arguments as JSON in <tool_call> marks:' }}
{%- for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor -%}
CLOSE
{%- endif -%}
"""

_BODY = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
OPEN_ASSISTANT
{%- generation -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- ('\\n' if message.content or not loop.first else '') + '<tool_call>' + call.function | tojson + '</tool_call>' -}}
{%- endfor -%}
END
{%- endgeneration -%}
AFTER
{%- elif not (tools and loop.first and message.role == 'system') -%}
OPEN_OTHER
{{- message.content -}}
CLOSE
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
OPEN_ASSISTANT
{%- endif -%}
"""


def _template(opening: str, end: str, after: str) -> str:
    """Fill the parts in; `{}` in `opening` is the speaker's role."""
    before, _, behind = opening.partition("{}")
    text = _SYSTEM + _BODY
    for name, value in (
        ("OPEN_SYSTEM", f"{{{{- '{before}system{behind}' -}}}}"),
        ("OPEN_ASSISTANT", f"{{{{- '{before}assistant{behind}' -}}}}"),
        ("OPEN_OTHER", f"{{{{- '{before}' + message.role + '{behind}' -}}}}"),
        ("CLOSE", f"{{{{- '{end}{after}' -}}}}"),
        ("END", f"{{{{- '{end}' -}}}}"),
        ("AFTER", f"{{{{- '{after}' -}}}}" if after else ""),
    ):
        text = text.replace(f"\n{name}\n", f"\n{value}\n")
    return "".join(line.strip() for line in text.splitlines())


@dataclass(frozen=True)
class ChatTemplate:
    """A template and the special tokens that it writes."""

    template: str
    end: str
    """The token that ends a turn; learned where it ends the assistant's."""
    tokens: tuple[str, ...]
    """All special tokens of the template, `end` included; EOS and pad come on top."""


TEMPLATES = {
    "turns": ChatTemplate(
        _template("<|{}|>", "<|end|>", ""), "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
    ),
    "chatml": ChatTemplate(_template("<|im_start|>{}\\n", "<|im_end|>", "\\n"), "<|im_end|>", ("<|im_start|>", "<|im_end|>")),
}

"""A report on a terminal. What is learned stands in colour; without colours, in brackets."""

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from data.inspection.report import Lengths, Part, Report, Said, Sample
from pipeline.inspect.wording import figures, harmless, headline, judged, legend, span

BAR = 30
WIDTH = 120
STYLES = {"error": "bold red", "warning": "yellow"}
LEARNED, SPECIAL, READ = "bold green", "magenta", "dim"
OPEN, CLOSE = "⟦", "⟧"
"""Around what is learned, where there are no colours."""


def print_report(report: Report, console: Console | None = None) -> None:
    """Everything, the verdicts last, where they stay in sight. Plain lines where the output is no terminal."""
    console = console or Console()
    if console.is_terminal:
        console.print(*_report(report, plain=console.color_system is None), sep="\n")
        return
    plain = Console(file=console.file, width=WIDTH, no_color=True, color_system=None, highlight=False, emoji=False)
    with plain.capture() as written:
        plain.print(*_report(report, plain=True), sep="\n")
    console.file.write("\n".join(line.rstrip() for line in written.get().split("\n")))


def _report(report: Report, *, plain: bool) -> Iterator[RenderableType]:
    yield Text(headline(report), style="bold")
    for note in report.notes:
        yield Text(f"  {harmless(note)}", style="dim")
    for part in report.parts:
        yield _part(part)
    for sample in report.samples:
        yield _sample(sample, plain=plain)
    if report.samples:
        yield Text(legend(report, f"{OPEN}this{CLOSE}" if plain else "green"), style="dim")
    yield _verdicts(report)


def _part(part: Part) -> RenderableType:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in figures(part):
        table.add_row(Text(name, style="dim"), Text(value))
    return Group(
        Text(), Rule(Text(harmless(part.name), style="bold"), align="left"), table, Padding(_histogram(part.lengths), (1, 0, 0, 0))
    )


def _histogram(lengths: Lengths) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    most = max((bin.count for bin in lengths.bins), default=0)
    for number, bin in enumerate(lengths.bins):
        unit = f" {lengths.unit}" if not number else " " * (len(lengths.unit) + 1)
        table.add_row(Text(f"{span(bin)}{unit}", style="dim"), f"{bin.count:,}", "█" * round(BAR * bin.count / most) if most else "")
    return table


def _sample(sample: Sample, *, plain: bool) -> RenderableType:
    title = Text(harmless(f"{sample.part} {sample.number} · {sample.source}"), style="bold")
    return Panel(Group(*_said(sample.said, plain)), title=title, title_align="left", border_style="dim")


def _said(all_said: tuple[Said, ...], plain: bool) -> Iterator[Text]:
    for said in all_said:
        text = Text()
        if said.label:
            text.append(f"{said.label}  ", style="bold cyan")
        open_learned = False
        for run in said.runs:
            if plain and run.learned != open_learned:
                text.append(OPEN if run.learned else CLOSE)
                open_learned = run.learned
            style = LEARNED if run.learned else READ
            text.append(harmless(run.text), style=f"{style} {SPECIAL}" if run.special else style)
        if plain and open_learned:
            text.append(CLOSE)
        if said.left_out:
            text.append(f" … {said.left_out:,} more", style="italic")
        yield text


def _verdicts(report: Report) -> RenderableType:
    lines = [Text()]
    for judgement in report.judgements:
        line = Text()
        line.append(f"{judgement.level}: ", style=STYLES[judgement.level])
        line.append(harmless(f"{judgement.part}: {judgement.text}" if judgement.part else judgement.text))
        lines.append(line)
    return Group(*lines, Text(judged(report), style="bold"))

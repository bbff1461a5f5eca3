"""Counts, bytes, prices and times as people read them."""

BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def count(number: float | None) -> str:
    """`6.7B`, `1.0T`, `512`."""
    if number is None:
        return "?"
    for size, unit in COUNTS:
        if number >= size * 0.9995:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def unit_of(size: float) -> tuple[float, str]:
    """The unit in which so many bytes are a number that says something."""
    return next(((factor, name) for factor, name in BYTES if size >= factor * 0.995), BYTES[-1])


def amount(number: float) -> str:
    """With as many digits as say something: `350`, `72.7`, `0.16`, `<0.01`."""
    if number >= 0.995:
        return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"
    return "0" if not number else f"{number:.2f}" if number >= 0.005 else "<0.01"


def size(held: float) -> str:
    """`72.7 GB`, `4.2 MB`, `0`."""
    factor, name = unit_of(held)
    return f"{amount(held / factor)} {name}" if held else "0"


def money(price: float) -> str:
    return f"{price:,.0f}" if price >= 100 else amount(price)


def duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.2g} s"
    if hours < 1:
        return f"{hours * 60:.3g} min"
    return f"{hours:,.1f} h" if hours < 72 else f"{hours / 24:,.1f} days"

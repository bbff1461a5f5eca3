"""Seeds that depend on what they are for, not on how often a generator was called: so a resumed run draws what the whole run would have drawn."""

import hashlib


def seed_for(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `seed_for(job.seed, "order", epoch)`. Different purposes give independent seeds."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

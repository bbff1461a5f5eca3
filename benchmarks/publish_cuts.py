"""Publish a run to the Hub of the tests, end it at a random byte of all that it sends, publish again, and look for any difference.

    python -m benchmarks.publish_cuts runs/demo --cuts 40 --kills 10

A cut is a connection that breaks, and every further one too; a kill is SIGKILL for `pipeline publish` as it is typed. Where follows from `--seed`: by
turns at any of the bytes of all requests' bodies, as the publication that nobody ends sends them, and in any of the requests, since most bytes are of weights. Each round has a Hub of its own, and compares its
repositories, file by file, with those of that publication. In the end the repositories of the last round are downloaded by a program that knows
transformers alone, in an empty folder, and what its models say is compared with what the run's own folders say.
"""

import argparse
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKEN = "hf_" + "testWriteTokenOfMe" * 2
SETTINGS = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
MODELS = ("words", "base", "chat", "judge", "policy")


@dataclass(frozen=True)
class Point:
    """A byte of a request's body."""

    method: str
    path: str
    before: int
    """Requests of the same kind that pass."""
    byte: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cuts", type=int, default=40)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.update(SETTINGS)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # which tells of every attempt
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_HOME"] = str(folder / "hf")
        run = shutil.copytree(options.run, folder / options.run.resolve().name, symlinks=True)
        whole, seen = undisturbed(run)
        total = sum(one.body_bytes for one in seen)
        print(f"undisturbed: {len(whole)} repositories, {len(seen)} requests with a body, {total:,} bytes")
        places: Counter[str] = Counter()
        healed = 0
        for number in range(options.cuts + options.kills):
            point = point_at(seen, dice.randrange(total)) if number % 2 else point_in(dice.choice(seen), seen, dice)
            places[what(point)] += 1
            last = number == options.cuts + options.kills - 1
            healed += round_of(run, point, whole, killed=number >= options.cuts, compare=folder if last else None)
            print(f"{number + 1}: {what(point)}, byte {point.byte:,}", flush=True)
        print(f"{options.cuts} cuts and {options.kills} kills, at: {', '.join(f'{name} {count}' for name, count in places.most_common())}")
        print("after each: the same files as undisturbed, every file sent once, one commit a repository; a third publication sent nothing")


def undisturbed(run: Path) -> tuple[dict[str, Any], list[Any]]:
    """What a whole publication leaves, and the requests that carried it."""
    with hub() as server:
        publish(run, server)
        forget(run)
        return left(server), [one for one in server.seen if one.body_bytes]


def point_at(seen: list[Any], at: int) -> Point:
    """The request, and the byte of its body, at a position of all bytes sent."""
    for number, one in enumerate(seen):
        if at < one.body_bytes:
            return _point(seen, number, at)
        at -= one.body_bytes
    raise IndexError(at)


def point_in(one: Any, seen: list[Any], dice: random.Random) -> Point:
    """A byte of one request."""
    return _point(seen, next(number for number, other in enumerate(seen) if other is one), dice.randrange(one.body_bytes))


def _point(seen: list[Any], number: int, byte: int) -> Point:
    one = seen[number]
    return Point(one.method, one.path, sum((other.method, other.path) == (one.method, one.path) for other in seen[:number]), byte)


def what(point: Point) -> str:
    return "weights" if "/lfs/" in point.path else "commit" if "/commit/" in point.path else "other requests"


def round_of(run: Path, point: Point, whole: dict[str, Any], *, killed: bool, compare: Path | None) -> bool:
    """Whether the publication went on by itself: the client tries again, and what was stored by then need not be confirmed."""
    with hub() as server:
        ended = typed if killed else publish
        fault = server.fail(
            point.method, f"^{re.escape(point.path)}$", after=point.before, cut_request=point.byte, times=1 if killed else 99
        )
        healed = ended(run, server, fault)
        assert fault.times < (1 if killed else 99), f"{point} was not reached"
        server.faults.clear()
        assert ended(run, server, None), f"after {point}: the second publication failed"
        assert left(server) == whole, f"after {point}: other files than undisturbed"
        arrived = Counter(one.path for one in server.requests("PUT", "/lfs/") if one.status == 200)
        assert set(arrived.values()) <= {1}, f"after {point}: {arrived.most_common(1)} was sent twice"
        commits = Counter(one.path for one in server.requests("POST", "/commit/") if one.status == 200)
        assert set(commits.values()) <= {1}, f"after {point}: {commits.most_common(1)}"
        before = len(server.seen)
        assert publish(run, server)
        assert not [one for one in server.seen[before:] if one.method == "PUT" or "/commit/" in one.path], (
            f"after {point}: a third sent something"
        )
        if compare:
            downloaded(run, server, compare)
    forget(run)
    return healed


def publish(run: Path, server: Any, fault: Any = None) -> bool:
    """In this process; whether it went well."""
    from huggingface_hub import HfApi

    from pipeline.publish import PublishError
    from pipeline.publish import publish as send
    from pipeline.publishing import Publishing

    wait, time.sleep = time.sleep, lambda seconds: None
    try:
        send(run, Publishing(collection=True), api=HfApi(endpoint=server.url, token=TOKEN))
    except PublishError:
        if fault is None:
            raise
        return False
    finally:
        time.sleep = wait
    return True


def typed(run: Path, server: Any, fault: Any) -> bool:
    """As it is typed; the Hub kills it when the byte has come."""
    argv = [sys.executable, "-m", "pipeline", "publish", str(run), "--collection"]
    surroundings = {**os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN}
    child = subprocess.Popen(argv, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if fault:
        fault.then = lambda: child.send_signal(signal.SIGKILL)
    _, errors = child.communicate(timeout=600)
    assert child.returncode in ((-signal.SIGKILL,) if fault else (0,)), errors
    return child.returncode == 0


def left(server: Any) -> dict[str, Any]:
    """Every file of every branch by its digest, and the collection's members."""
    found = {
        f"{name}@{branch}": {path: blob.oid for path, blob in sorted(one.resolve(branch).files.items())}
        for (_, name), one in sorted(server.repositories.items())
        for branch in one.branches
    }
    return {**found, "collections": [list(one.items) for one in server.collections.values()]}


def downloaded(run: Path, server: Any, folder: Path) -> None:
    """What the models say to a stranger who downloads them, against what the run's own folders say."""
    from tests.end_to_end.test_published_demo import stranger

    ours = stranger({stage: str((run / stage / "artifact").resolve()) for stage in MODELS}, folder / "ours", HF_HUB_OFFLINE="1")
    names = {stage: f"me/{run.name}-{stage}" for stage in MODELS}
    theirs = stranger(names, folder / "theirs", HF_ENDPOINT=server.url, HF_TOKEN=TOKEN)
    for stage in MODELS[1:]:
        pairs = list(zip(numbers(ours[stage]["outputs"]), numbers(theirs[stage]["outputs"]), strict=True))  # type: ignore[index]
        print(f"{stage}: {len(pairs)} logits or scores, largest difference {max(abs(a - b) for a, b in pairs)}", end="")
        told = [one[stage].get("answer") for one in (ours, theirs)]  # type: ignore[attr-defined]
        print(
            "" if told[0] is None else f"; a greedy answer of {len(told[0][0])} tokens, {'the same' if told[0] == told[1] else 'ANOTHER'}"
        )
    assert ours == theirs


def numbers(value: Any) -> list[float]:
    return [one for inner in value for one in numbers(inner)] if isinstance(value, list) else [float(value)]


def forget(run: Path) -> None:
    """The run as it was before it was published."""
    (run / "published.json").unlink(missing_ok=True)


def hub() -> Any:
    from tests.hub.hub import Account
    from tests.hub.server import Server

    return Server({TOKEN: Account("me")})


if __name__ == "__main__":
    main()

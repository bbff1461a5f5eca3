"""Carry out docker/Dockerfile.cpu without docker, in a folder of one's own: the same steps in the same order, with the image's paths moved there.

    python docker/replay.py docker/Dockerfile.cpu /tmp/image          # some 3 minutes; prints what it leaves out
    python docker/replay.py docker/Dockerfile.cpu /tmp/image --list

Steps that need an image's root (packages of the system, users) are left out and said. At the end the entry point runs.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

OURS = ("/opt/venv", "/src", "/work")
"""Folders of the image that the replay has."""
ROOT_ONLY = ("apt-get", "useradd")


@dataclass(frozen=True)
class Step:
    stage: int
    word: str
    rest: str


def steps(file: Path) -> list[Step]:
    """The instructions of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found, stage = [], -1
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        found.append(Step(stage, word, rest.strip()))
    return found


def moved(text: str, root: Path) -> str:
    """The same text with the image's folders inside `root`."""
    return re.sub(rf"(?<![\w.])({'|'.join(OURS)})(?=[/\s:'\"]|$)", lambda found: f"{root}{found[1]}", text)


def in_context(context: Path) -> set[str]:
    """Names at the top of the build's context that .dockerignore lets in."""
    lines = (context / ".dockerignore").read_text(encoding="utf-8").split()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    return {path.name for path in context.iterdir() if any(fnmatch(path.name, name) for name in kept)}


def replay(file: Path, context: Path, root: Path) -> None:
    variables, place = {}, root
    for step in steps(file):
        print(f"{step.word} {step.rest}", flush=True)
        if step.word in ("ARG", "ENV"):
            for pair in shlex.split(step.rest):
                name, _, value = pair.partition("=")
                variables[name] = moved(os.path.expandvars(value), root) if step.word == "ENV" else os.environ.get(name, value)
        elif step.word == "WORKDIR":
            place = Path(moved(step.rest, root))
            place.mkdir(parents=True, exist_ok=True)
        elif step.word == "COPY":
            _copy(step.rest, context, place)
        elif step.word == "RUN":
            _run(step.rest, root, place, variables)
        elif step.word == "ENTRYPOINT":
            program = re.findall(r'"([^"]+)"', step.rest)
            path = {**os.environ, **variables, "PATH": f"{root}/opt/venv/bin:{os.environ['PATH']}"}
            subprocess.run(
                [f"{root}/opt/venv/bin/{program[0]}", "check", str(root / "src/recipes/demo.yaml")], cwd=place, env=path, check=True
            )


def _copy(rest: str, context: Path, place: Path) -> None:
    if rest.startswith("--from="):
        return  # both stages are one folder here
    *sources, target = rest.split()
    for source in sources:
        if source not in in_context(context):
            raise SystemExit(f".dockerignore keeps {source} out of the build")
        where = place / target / source if target.endswith("/") or target == "./" else place / target
        if (context / source).is_dir():
            shutil.copytree(context / source, where, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(context / source, where)


def _run(text: str, root: Path, place: Path, variables: dict[str, str]) -> None:
    if any(word in text for word in ROOT_ONLY):
        print("  left out: it needs the root of an image")
        return
    subprocess.run(["sh", "-euc", moved(text, root)], cwd=place, env={**os.environ, **variables}, check=True)


if __name__ == "__main__":
    dockerfile, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    if sys.argv[3:] == ["--list"]:
        print("\n".join(moved(step.rest, folder) for step in steps(dockerfile) if step.word == "RUN"))
    else:
        folder.mkdir(parents=True)
        replay(dockerfile, dockerfile.parents[1], folder)

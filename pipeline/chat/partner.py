"""The process at the other end of a conversation."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from pydantic import TypeAdapter

from pipeline.errors import PipelineError
from stages.core.dialogue import Ask, Opening, Piece, Said, Wrong

HOME = Path(__file__).resolve().parents[2]
"""Where our packages lie: they are found by the working directory, so that no file of the user's takes their place."""
EVENTS: TypeAdapter[Piece | Said | Wrong] = TypeAdapter(Piece | Said | Wrong)


class Partner:
    """`python -m stages.core.talk`, asked and heard."""

    def __init__(self, opening: Opening) -> None:
        # What libraries print is no part of a conversation; it is read only if the process ends.
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - open as long as the process is
        argv = [sys.executable, "-W", "ignore", "-m", "stages.core.talk"]
        self._child = subprocess.Popen(
            argv, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, encoding="utf-8"
        )
        self._send(opening.model_dump_json())

    def ask(self, ask: Ask) -> Iterator[Piece | Said | Wrong]:
        """Pieces of the answer as they come, then the whole. Ctrl-C ends the answer, not the conversation."""
        self._send(ask.model_dump_json())
        while True:
            try:
                event = self._hear()
            except KeyboardInterrupt:  # the child got it too, and says what it has
                continue
            yield event
            if not isinstance(event, Piece):
                return

    def _send(self, line: str) -> None:
        assert self._child.stdin is not None  # noqa: S101 - a pipe was asked for
        try:
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            self._gone()

    def _hear(self) -> Piece | Said | Wrong:
        assert self._child.stdout is not None  # noqa: S101 - a pipe was asked for
        line = self._child.stdout.readline()
        if not line:
            self._gone()
        return EVENTS.validate_json(line)

    def _gone(self) -> NoReturn:
        self._child.wait()
        self._log.seek(0)
        last = (self._log.read().strip().splitlines() or ["it said nothing"])[-1]
        raise PipelineError(f"the process that holds the models ended: {last[:500]}")

    def __enter__(self) -> "Partner":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._log.close()

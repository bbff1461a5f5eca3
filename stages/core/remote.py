"""Rewards from a server: HTTP requests of a batch of answers each, with a time-out and tries again, to the host that the recipe allows and no other.

On the standard library: one POST of JSON needs no client of its own. Redirects are refused, since they would carry answers to a host that
nobody allowed, and no proxy of the environment is asked.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.contract import StageError
from stages.core.answers import Answers
from stages.core.config import Remote
from stages.core.watchdog import beat

LARGEST_RESPONSE = 16 << 20
"""Bytes of a response that are read."""
BETWEEN_BEATS = 10.0
"""Seconds."""
WORTH_TRYING_AGAIN = (429, 500, 502, 503, 504)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def patiently(seconds: float) -> None:
    """Sleep, and go on giving signs of life: later tries wait for minutes."""
    while seconds > 0:
        beat()
        time.sleep(min(seconds, BETWEEN_BEATS))
        seconds -= BETWEEN_BEATS


_OPENER = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class RemoteScorer:
    settings: Remote
    wait: Callable[[float], None] = field(default=patiently)
    """Between tries; seconds."""

    def score(self, answers: Answers) -> dict[str, np.ndarray]:
        """(B) float64. Raises StageError if the server cannot be reached or does not answer with a number for each answer."""
        scores: list[float] = []
        for start in range(0, len(answers.texts), self.settings.batch):
            scores += self._scores_of(answers, slice(start, start + self.settings.batch))
        return {"": np.array(scores, dtype=np.float64)}

    def _scores_of(self, answers: Answers, part: slice) -> list[float]:
        asked = {
            "prompts": answers.prompts[part],
            "answers": answers.texts[part],
            "finished": [completion.finished for completion in answers.completions[part]],
            "references": answers.references[part],
        }
        response = self._ask(json.dumps(asked).encode())
        scores = response.get("scores") if isinstance(response, dict) else None
        wanted = len(asked["answers"])
        if not isinstance(scores, list) or len(scores) != wanted or not all(_is_number(score) for score in scores):
            raise StageError(f"reward server {self.settings.url}: found {_short(response)}, wanted `scores` with {wanted} numbers")
        return [float(score) for score in scores]

    def _ask(self, body: bytes) -> Any:
        """The parsed response to one request, after as many tries as the settings allow."""
        last = ""
        for attempt in range(self.settings.retries + 1):
            if attempt:
                self.wait(2.0 ** (attempt - 1))
            beat()
            try:
                return self._once(body)
            except urllib.error.HTTPError as error:
                last = f"it answered {error.code} {error.reason}"
                if error.code not in WORTH_TRYING_AGAIN:
                    break
            except (
                OSError,
                http.client.HTTPException,
                ValueError,
            ) as error:  # time-outs and broken connections; what is not HTTP, or not JSON
                last = " ".join(str(error).split()) or type(error).__name__
        raise StageError(f"reward server {self.settings.url}: {last} (after {attempt + 1} tries)")

    def _once(self, body: bytes) -> Any:
        # The scheme is https, or http on this machine: `Remote` has seen to it.
        request = urllib.request.Request(self.settings.url, body, {"Content-Type": "application/json"})  # noqa: S310
        longest, text = self.settings.timeout_seconds, b""
        end = time.monotonic() + longest
        with _OPENER.open(request, timeout=longest) as response:
            while piece := response.read1(1 << 16):
                text += piece
                if len(text) > LARGEST_RESPONSE:
                    raise ValueError(f"its response is longer than {LARGEST_RESPONSE >> 20} MiB")
                if time.monotonic() > end:  # the socket's own limit begins anew with every piece
                    raise TimeoutError(f"its response took longer than {longest:g} s")
        return json.loads(text)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"

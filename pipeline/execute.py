"""Carries out a plan: one stage after the other, each in a process of its own, each sealed before the next starts."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.secrets import redact, secret_values
from pipeline.accelerate_config import write_accelerate_config
from pipeline.ending import Ending, ending, last_lines
from pipeline.errors import RecipeError, StoreError
from pipeline.estimate.deciding import decided
from pipeline.gates import missed_gates
from pipeline.identity import Identity, identity_of
from pipeline.jobs import make_job, relative, surroundings
from pipeline.launch import WORKER, command, environment, is_launched, node_script
from pipeline.lock import Lock
from pipeline.plan import Plan, Selection, Step, make_plan
from pipeline.process import Stop, spawn, watch
from pipeline.progress import Tail, View, duration, numbers
from pipeline.references import sources
from pipeline.results import artifact_complaint, result_of
from pipeline.store import Attempt, now, read_json
from stages.contract import AGAIN, DONE, FAILED, INTERRUPTED, STOP, WRONG_INPUT, Hardware, Result
from stages.core.files import write_json


@dataclass
class Execution:
    """One `pipeline run`, from the first selected stage to the last."""

    plan: Plan
    selection: Selection
    known: Mapping[str, Identity]
    lock: Lock
    view: View
    stop: Stop
    go_on: str
    """The command that goes on after a failure."""
    worker: Sequence[str] = WORKER
    grace_seconds: float = 120.0
    max_restarts: int = 0
    """Times that a stage is started again after it crashed, was killed or hung."""

    def execute(self) -> int:
        """Runs what the plan says. Gives the exit code."""
        run, code, gates = self.plan.run, DONE, list[str]()
        for name in self.plan.recipe.stages:
            # Decided anew for each stage: the ones before may have changed what is there.
            self.plan = make_plan(self.plan.recipe, run, self.selection, self.known)
            step = self.plan.step(name)
            if step.works:
                ended = self._work(step)
                if ended != DONE:
                    return ended
                step = self._done(name)
            else:
                self.view.say(f"{name}  {step.action}  {step.reason}")
            if step.manifest is not None:
                run.make_current(name, step.folder)
            if step.missed:
                gates.append(f"{name} misses its gate: {'; '.join(step.missed)}")
            if step.missed or step.action == "blocked":
                code = FAILED
            if self.stop.asked:
                return self._interrupted(name)
        for gate in gates:
            self.view.say(f"\n{gate}. The stages below do not run; change the stage, or its `require`; then: {self.go_on}")
        return code

    def _done(self, name: str) -> Step:
        """The plan's word on a stage that has just been sealed."""
        self.selection = replace(self.selection, redo=tuple(other for other in self.selection.redo if other != name))
        return make_plan(self.plan.recipe, self.plan.run, self.selection, self.known).step(name)

    def _work(self, step: Step) -> int:
        self.view.say(f"{step.name}  {step.action}  {step.reason}")
        if step.redo and (kept := self.plan.run.set_aside(step.folder)) is not None:
            self.view.say(f"  the earlier result is kept as {kept.name}")
        step.folder.path.mkdir(parents=True, exist_ok=True)
        if step.action == "seal":
            attempts = step.folder.attempts()
            return self._seal(step, attempts[-1] if attempts else step.folder.new_attempt())
        self._still_the_same(step)
        self._whole(step)
        return self._attempts(step)

    def _attempts(self, step: Step) -> int:
        """Starts the stage, and again where it rolled back or, within the limit, where it ended as nobody foresaw."""
        left = self.max_restarts
        while True:
            attempt, ended = self._attempt(step)
            if ended.code == DONE:
                return self._seal(step, attempt)
            if self.stop.asked or not (ended.code == AGAIN or (ended.unforeseen and left)):
                return self._failed(step, attempt, ended)
            left -= ended.code != AGAIN
            first = f" ({redact(ended.first, self._secrets())})" if ended.first else ""
            start = step.folder.checkpoint() or "the start"
            self.view.say(f"  {step.name} {ended.how} in attempt {attempt.number}{first}; goes on from {start}, {left} restarts left")

    def _still_the_same(self, step: Step) -> None:
        """The plan may be hours old: data that changed since then is another stage."""
        fresh = identity_of(self.plan.recipe, step.name, self.known, self.plan.run.pins())
        if fresh.fingerprint != step.identity.fingerprint:
            raise RecipeError(f"the data of stage '{step.name}' changed since this run began; run again to take it as it is now")

    def _whole(self, step: Step) -> None:
        """What the stage begins with, byte for byte: the plan looks at sizes only. Raises StoreError, naming the first file that has changed."""
        taken = {each.value for each in self.plan.recipe.references[step.name] if each.form == "stage"}
        taken |= {source.stage for _, source in sources(step.config) if source.stage in self.plan.recipe.stages}
        for above in [each for each in self.plan.steps if each.name in taken and each.manifest is not None]:
            if faults := above.folder.faults(above.manifest or {}, contents=True):
                raise StoreError(
                    f"stage '{above.name}', which '{step.name}' begins with: {faults[0]}; to make it again: {self.go_on} --redo {above.name}"
                )

    def _attempt(self, step: Step) -> tuple[Attempt, Ending]:
        """Starts the stage's process, waits for its end, notes how it ended."""
        folder = step.folder
        folder.unseal()
        shutil.rmtree(folder.artifact, ignore_errors=True)
        attempt = folder.new_attempt()
        hardware, told = decided(self.plan, step)
        if told:
            self.view.say(f"  {told}")
        job = make_job(self.plan, step, attempt.number, hardware)
        write_json(folder.path / "job.json", job.model_dump(mode="json"))
        argv = command(job.folder / "job.json", hardware, self.worker, attempt.folder.resolve() / "node.sh")
        if len(hardware.hosts) > 1:
            text = node_script(job.folder / "job.json", hardware, os.environ, self.worker, f"{folder.path.name}-{attempt.number}")
            (attempt.folder / "node.sh").write_text(text, encoding="utf-8")
        if hardware.gpus and is_launched(hardware):
            write_accelerate_config(folder.path / "accelerate.yaml", hardware)
        write_json(attempt.folder / "env.json", surroundings(hardware, argv))
        self.plan.run.event("started", stage=step.name, folder=folder.path.name, attempt=attempt.number)
        started = time.monotonic()  # a clock that is set meanwhile changes no duration
        code = self._child(step, attempt, argv, hardware)
        if code != DONE and is_launched(hardware) and isinstance(result_of(folder), Result):
            # Written by the first process after all have met for the last time: what the launcher met with afterwards took nothing away.
            self.view.say(f"  the launcher of {step.name} ended with exit code {code}, after the stage was done")
            code = DONE
        ended = ending(attempt, code, stopped=self.stop.by)
        seconds = round(time.monotonic() - started, 1)
        write_json(attempt.folder / "exit.json", {"code": ended.code, "how": ended.how, "seconds": seconds, "finished": now()})
        self.plan.run.event("ended", stage=step.name, folder=folder.path.name, attempt=attempt.number, how=ended.how, seconds=seconds)
        return attempt, ended

    def _child(self, step: Step, attempt: Attempt, argv: Sequence[str], hardware: Hardware) -> int:
        tail = Tail(step.folder.path / "metrics.jsonl")
        surrounding = environment(hardware, os.environ)
        child = spawn(argv, folder=step.folder.path, log=attempt.log, environment=surrounding, descriptor=self.lock.descriptor)
        self.lock.tell(stage=step.name, folder=step.folder.path.name, stage_pid=child.pid)

        def tick() -> None:
            for record in tail.new():
                self.view.seen(record)

        self.view.open(step.name)
        try:
            request = attempt.folder / STOP if len(hardware.hosts) > 1 else None
            return watch(child, self.stop, self.grace_seconds, tick, launched=is_launched(hardware), request=request)
        finally:
            self.view.close()

    def _seal(self, step: Step, attempt: Attempt) -> int:
        """Checks what the stage left and writes its manifest, the last file of all."""
        result = result_of(step.folder)
        complaint = result if isinstance(result, str) else artifact_complaint(step.folder.artifact, step.config)
        if complaint:
            return self._failed(step, attempt, Ending(FAILED, f"said that it is done, but {complaint}", known=True))
        assert isinstance(result, Result)  # noqa: S101 - for the type checker; a text was returned above
        manifest = step.folder.seal(self._statement(step, result))
        self.plan.run.event("done", stage=step.name, folder=step.folder.path.name, digest=manifest["digest"])
        self.view.say(f"  {step.name} done in {duration(manifest['seconds'])}  {numbers(result.metrics)}")
        for note in result.notes:
            self.view.say(f"    {note}")
        if missed := missed_gates(step.config.require, result.metrics, step.config):
            self.plan.run.event("gate missed", stage=step.name, missed=missed)
        return DONE

    def _statement(self, step: Step, result: Result) -> dict[str, Any]:
        ends = [found for attempt in step.folder.attempts() if (found := attempt.exit)]
        last = step.folder.attempts()[-1]
        return {
            "stage": step.name,
            "kind": step.kind,
            "makes": type(step.config).makes,
            "fingerprint": step.identity.fingerprint,
            "identity": step.identity.value,
            "inputs": self._inputs(step),
            "metrics": result.metrics,
            "steps": result.steps,
            "attempts": len(step.folder.attempts()),
            "seconds": round(sum(end["seconds"] for end in ends), 1),
            "finished": now(),
            "surroundings": _read(last.folder / "env.json"),
        }

    def _inputs(self, step: Step) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for reference in self.plan.recipe.references[step.name]:
            found[reference.field] = {"reference": reference.value}
            if reference.form == "stage":
                above = self.plan.step(reference.value)
                found[reference.field] |= {"fingerprint": above.identity.fingerprint, "digest": (above.manifest or {}).get("digest")}
        return found

    def _secrets(self) -> tuple[str, ...]:
        return secret_values(os.environ)

    def _failed(self, step: Step, attempt: Attempt, ended: Ending) -> int:
        if ended.code == INTERRUPTED or (self.stop.asked and (ended.code == AGAIN or not ended.known)):
            return self._interrupted(step.name)
        self.view.say(f"\n{step.name} {ended.how}, in attempt {attempt.number}")
        if ended.first:
            self.view.say(f"  {redact(ended.first, self._secrets())}")
        lines = last_lines(attempt.log, self._secrets())
        if lines:
            self.view.say(f"  last lines of {relative(attempt.log)}:")
            self.view.say("\n".join(f"  | {line}" for line in lines))
        self.view.say(f"  finished stages stay finished; to go on: {self.go_on}")
        return WRONG_INPUT if ended.code == WRONG_INPUT else FAILED

    def _interrupted(self, name: str) -> int:
        self.view.say(f"\nstopped at {name}; to go on: {self.go_on}")
        return INTERRUPTED


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except StoreError:
        return None

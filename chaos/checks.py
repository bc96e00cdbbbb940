"""What became of the jobs, in figures, and whether that is good. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from chaos.processes import KINDS


@dataclass(frozen=True)
class Event:
    """One webhook of a job that arrived, its signature good; `taken`: it was answered 200 in time."""

    id: str
    type: str
    text: str | None
    body: bytes
    taken: bool


@dataclass
class Submission:
    """One job that a client asked for, and all that it heard of it."""

    number: int
    recording: str
    expected: str
    job_id: str | None = None
    accepted_s: float | None = None
    status: str | None = None
    attempts: int | None = None
    error: str | None = None
    refused: str | None = None
    text: str | None = None
    events: list[Event] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether it succeeded, with the right text."""
        return self.status == "succeeded" and self.text == self.expected

    @property
    def reported(self) -> bool:
        """Whether a webhook of it was taken."""
        return any(event.taken for event in self.events)

    def problems(self) -> list[str]:
        """What went wrong."""
        if self.job_id is None:
            return [f"was not accepted: {self.refused or 'no answer until the end'}"]
        ids = {event.id for event in self.events}
        found = [f"was answered {self.refused}"] if self.refused else []
        if self.status != "succeeded":
            found.append(f"is {self.status or 'not to be found'} after {self.attempts} attempts: {self.error}")
        elif self.text != self.expected:
            found.append(f"has another text than undisturbed: {self.text!r}")
        if not self.reported:
            found.append(f"lost its webhook: none of {len(self.events)} calls was taken")
        if self.status == "succeeded" and any(
            (e.type, e.text) != ("job.completed", self.expected) for e in self.events
        ):
            found.append("has a webhook with another end or text")
        if len(ids) > 1:
            found.append(f"has webhooks with {len(ids)} ids")
        if len({(event.id, event.body) for event in self.events}) > len(ids):
            found.append("has webhooks that differ under one id")
        return found


@dataclass
class Outcome:
    """A run.

    `listed`: the jobs that the service knows in the end; None: it could not be asked. `killed`: by the kind's name.
    `interrupted`: jobs accepted but not yet reported when the whole cluster was killed; None: it never was.
    `http`, `receiver`: what was answered.
    """

    submissions: Sequence[Submission] = ()
    listed: set[str] | None = None
    killed: Counter[str] = field(default_factory=Counter)
    interrupted: int | None = None
    forged: Sequence[str] = ()
    http: Counter[str] = field(default_factory=Counter)
    receiver: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    ended_early: str | None = None

    @property
    def duplicates(self) -> set[str]:
        """Jobs that nobody asked for: a submit that was sent again made them."""
        return (self.listed or set()) - self.accepted

    @property
    def forgotten(self) -> set[str]:
        """Jobs that were accepted, and the service no longer knows."""
        return set() if self.listed is None else self.accepted - self.listed

    @property
    def accepted(self) -> set[str]:
        """The jobs that the clients know of."""
        return {one.job_id for one in self.submissions if one.job_id is not None}


def problems(outcome: Outcome) -> list[str]:
    """Every reason why a run is not good; none: it is."""
    found = [f"the run ended early: {outcome.ended_early}"] if outcome.ended_early else []
    for one in outcome.submissions:
        found += [f"job {one.number} ({one.recording}, {one.job_id}) {what}" for what in one.problems()]
    found += [f"job {job_id} is a duplicate: a submit sent again made it" for job_id in sorted(outcome.duplicates)]
    found += [f"job {job_id} is no longer listed" for job_id in sorted(outcome.forgotten)]
    found += [f"a webhook can't be trusted: {why}" for why in outcome.forged]
    unharmed = [kind.name for kind in KINDS if not outcome.killed[kind.name]]
    if unharmed:
        found.append(f"the run proves too little: never killed {', '.join(unharmed)}")
    if not outcome.interrupted:
        found.append("the run proves too little: the whole cluster was not killed while jobs were open")
    return found


def figures(outcome: Outcome) -> dict[str, str]:
    """The run in figures, for people."""
    of = outcome.submissions
    accepted = [one.accepted_s for one in of if one.accepted_s is not None]
    taken = [event for one in of for event in one.events if event.taken]
    reported = sum(one.reported for one in of)
    return {
        "jobs": f"{len(of)} submitted, {len(accepted)} accepted, {sum(one.right for one in of)} right, "
        f"{sum(one.status == 'failed' for one in of)} failed, {len(outcome.duplicates)} duplicates",
        "attempts": counts(Counter(one.attempts for one in of if one.attempts is not None)),
        "killed": counts(outcome.killed),
        "whole cluster": "not killed"
        if outcome.interrupted is None
        else f"killed with {outcome.interrupted} jobs open",
        "webhooks": f"{sum(len(one.events) for one in of)} arrived and valid, {len(outcome.forged)} not valid, "
        f"{len(taken)} taken, {len(taken) - len({event.id for event in taken})} of them again, "
        f"{len(accepted) - reported} jobs' lost",
        "receiver": counts(outcome.receiver),
        "http": counts(outcome.http),
        "accepted after": f"{median(accepted):.1f} s (median), {max(accepted):.1f} s (longest)"
        if accepted
        else "never",
        "took": f"{outcome.seconds:.0f} s",
    }


def counts(counter: Counter[str] | Counter[int]) -> str:
    """What was counted, in one line."""
    return ", ".join(f"{key} × {count}" for key, count in sorted(counter.items(), key=str)) or "none"

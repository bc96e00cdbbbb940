"""Records of a run, its checks and its summary. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from chaos.processes import KINDS


@dataclass(frozen=True)
class Event:
    """A webhook with a valid signature; `acknowledged`: it was answered 200 in time."""

    id: str
    type: str
    text: str | None
    body: bytes
    acknowledged: bool


@dataclass
class Submission:
    """A job that a client submitted, and all that the client received for it."""

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
        """Return whether the job succeeded with the right text."""
        return self.status == "succeeded" and self.text == self.expected

    @property
    def reported(self) -> bool:
        """Return whether a webhook of the job was acknowledged."""
        return any(event.acknowledged for event in self.events)

    def find_problems(self) -> list[str]:
        """Describe everything that is wrong with the job."""
        if self.job_id is None:
            return [f"was not accepted: {self.refused or 'no response until the end'}"]
        ids = {event.id for event in self.events}
        found = [f"was refused: {self.refused}"] if self.refused else []
        if self.status != "succeeded":
            found.append(f"is {self.status or 'not to be found'} after {self.attempts} attempts: {self.error}")
        elif self.text != self.expected:
            found.append(f"has a different text than undisturbed: {self.text!r}")
        if not self.reported:
            found.append(f"lost its webhook: none of {len(self.events)} calls was acknowledged")
        if self.status == "succeeded" and any(
            (e.type, e.text) != ("job.completed", self.expected) for e in self.events
        ):
            found.append("has a webhook with a different result or text")
        if len(ids) > 1:
            found.append(f"has webhooks with {len(ids)} ids")
        if len({(event.id, event.body) for event in self.events}) > len(ids):
            found.append("has webhooks that differ under one id")
        return found


@dataclass
class Outcome:
    """The records of a run.

    `listed`: the jobs that the service lists at the end, None if it could not be asked. `killed`: kills by kind.
    `interrupted`: jobs accepted but not reported when the whole cluster was killed, None if it was not.
    `http`, `receiver`: responses of the service and of the webhook receiver, by kind.
    """

    submissions: Sequence[Submission] = ()
    listed: set[str] | None = None
    killed: Counter[str] = field(default_factory=Counter)
    interrupted: int | None = None
    invalid_webhooks: Sequence[str] = ()
    http: Counter[str] = field(default_factory=Counter)
    receiver: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    ended_early: str | None = None

    @property
    def duplicates(self) -> set[str]:
        """Jobs that no client submitted: a repeated submit created them."""
        return (self.listed or set()) - self.accepted

    @property
    def missing(self) -> set[str]:
        """Jobs that were accepted but are no longer listed."""
        return set() if self.listed is None else self.accepted - self.listed

    @property
    def accepted(self) -> set[str]:
        """The ids that clients received."""
        return {one.job_id for one in self.submissions if one.job_id is not None}


def find_problems(outcome: Outcome) -> list[str]:
    """Return every reason why a run failed; an empty list if it passed."""
    found = [f"the run ended early: {outcome.ended_early}"] if outcome.ended_early else []
    for one in outcome.submissions:
        found += [f"job {one.number} ({one.recording}, {one.job_id}) {what}" for what in one.find_problems()]
    found += [f"job {job_id} is a duplicate, made by a repeated submit" for job_id in sorted(outcome.duplicates)]
    found += [f"job {job_id} is no longer listed" for job_id in sorted(outcome.missing)]
    found += [f"a webhook can't be trusted: {why}" for why in outcome.invalid_webhooks]
    unharmed = [kind.name for kind in KINDS if not outcome.killed[kind.name]]
    if unharmed:
        found.append(f"the run proves too little: never killed {', '.join(unharmed)}")
    if not outcome.interrupted:
        found.append("the run proves too little: the whole cluster was not killed while jobs were open")
    return found


def summarise(outcome: Outcome) -> dict[str, str]:
    """Return the figures of a run as text."""
    of = outcome.submissions
    accepted = [one.accepted_s for one in of if one.accepted_s is not None]
    acknowledged = [event for one in of for event in one.events if event.acknowledged]
    repeated = len(acknowledged) - len({event.id for event in acknowledged})
    reported = sum(one.reported for one in of)
    return {
        "jobs": f"{len(of)} submitted, {len(accepted)} accepted, {sum(one.right for one in of)} right, "
        f"{sum(one.status == 'failed' for one in of)} failed, {len(outcome.duplicates)} duplicates",
        "attempts": counts(Counter(one.attempts for one in of if one.attempts is not None)),
        "killed": counts(outcome.killed),
        "whole cluster": "not killed"
        if outcome.interrupted is None
        else f"killed with {outcome.interrupted} jobs open",
        "webhooks": f"{sum(len(one.events) for one in of)} valid, {len(outcome.invalid_webhooks)} invalid, "
        f"{len(acknowledged)} acknowledged, {repeated} of them repeated, {len(accepted) - reported} lost",
        "receiver": counts(outcome.receiver),
        "http": counts(outcome.http),
        "accepted after": f"{median(accepted):.1f} s (median), {max(accepted):.1f} s (longest)"
        if accepted
        else "never",
        "took": f"{outcome.seconds:.0f} s",
    }


def counts(counter: Counter[str] | Counter[int]) -> str:
    """Format a counter in one line."""
    return ", ".join(f"{key} × {count}" for key, count in sorted(counter.items(), key=str)) or "none"

"""The checks of the fault test."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from chaos.checks import Event, Outcome, Submission, find_problems, summarise
from chaos.processes import KINDS

ACKNOWLEDGED = Event("msg_a", "job.completed", "one two", b"{}", acknowledged=True)
FAILED = replace(ACKNOWLEDGED, acknowledged=False)


def submission(**other: Any) -> Submission:
    fine = {"job_id": "a", "accepted_s": 0.5, "status": "succeeded", "attempts": 1, "text": "one two"}
    return Submission(0, "en.mp3", "one two", **{**fine, "events": [FAILED, ACKNOWLEDGED], **other})


def outcome(**other: Any) -> Outcome:
    fine = {"submissions": [submission()], "listed": {"a"}, "interrupted": 3}
    return Outcome(**{**fine, "killed": Counter(kind.name for kind in KINDS), **other})


def test_no_problems() -> None:
    assert find_problems(outcome()) == []


def test_repeated_webhooks_are_allowed() -> None:
    repeated = outcome(submissions=[submission(events=[ACKNOWLEDGED, ACKNOWLEDGED])])
    assert find_problems(repeated) == []
    assert "2 acknowledged, 1 of them repeated" in summarise(repeated)["webhooks"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"job_id": None, "refused": "400 no"}, "was not accepted: 400 no"),
        ({"refused": "404 no"}, "was refused: 404 no"),
        ({"status": "failed", "attempts": 3, "error": "interrupted"}, "is failed after 3 attempts: interrupted"),
        ({"status": None, "attempts": None}, "is not to be found"),
        ({"text": "one"}, "has a different text than undisturbed: 'one'"),
        ({"events": []}, "lost its webhook: none of 0 calls was acknowledged"),
        ({"events": [FAILED]}, "lost its webhook: none of 1 calls was acknowledged"),
        ({"events": [replace(ACKNOWLEDGED, text="one")]}, "a different result or text"),
        ({"events": [replace(ACKNOWLEDGED, type="job.failed", text=None)]}, "a different result or text"),
        ({"events": [ACKNOWLEDGED, replace(ACKNOWLEDGED, id="msg_b")]}, "has webhooks with 2 ids"),
        ({"events": [ACKNOWLEDGED, replace(ACKNOWLEDGED, body=b"[]")]}, "differ under one id"),
    ],
)
def test_problems_of_jobs(changes: dict[str, Any], expected: str) -> None:
    one = submission(**changes)
    (problem,) = find_problems(outcome(submissions=[one], listed={one.job_id} - {None}))
    assert problem.startswith("job 0 (en.mp3, ")
    assert expected in problem


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"listed": {"a", "b"}}, "job b is a duplicate"),
        ({"listed": set()}, "job a is no longer listed"),
        ({"invalid_webhooks": ["no signature"]}, "can't be trusted: no signature"),
        ({"killed": Counter(kind.name for kind in KINDS[1:])}, f"never killed {KINDS[0].name}"),
        ({"interrupted": None}, "whole cluster was not killed"),
        ({"interrupted": 0}, "whole cluster was not killed"),
        ({"ended_early": "no job ended for 9 s"}, "ended early: no job ended for 9 s"),
    ],
)
def test_problems_of_runs(changes: dict[str, Any], expected: str) -> None:
    (problem,) = find_problems(outcome(**changes))
    assert expected in problem


def test_summary() -> None:
    failed_submission = submission(job_id="b", status="failed", text=None, attempts=3, events=[])
    summary = summarise(outcome(submissions=[submission(), failed_submission], listed={"a", "b", "c"}))
    assert summary["jobs"] == "2 submitted, 2 accepted, 1 right, 1 failed, 1 duplicates"
    assert summary["attempts"] == "1 × 1, 3 × 1"
    assert summary["webhooks"] == "2 valid, 0 invalid, 1 acknowledged, 0 of them repeated, 1 lost"
    assert summary["whole cluster"] == "killed with 3 jobs open"
    assert summarise(Outcome())["jobs"].startswith("0 submitted")

"""What the fault test calls good."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from chaos.checks import Event, Outcome, Submission, figures, problems
from chaos.processes import KINDS

TAKEN = Event("msg_a", "job.completed", "one two", b"{}", taken=True)
FAILED = replace(TAKEN, taken=False)


def submission(**other: Any) -> Submission:
    fine = {"job_id": "a", "accepted_s": 0.5, "status": "succeeded", "attempts": 1, "text": "one two"}
    return Submission(0, "en.mp3", "one two", **{**fine, "events": [FAILED, TAKEN], **other})


def outcome(**other: Any) -> Outcome:
    fine = {"submissions": [submission()], "listed": {"a"}, "interrupted": 3}
    return Outcome(**{**fine, "killed": Counter(kind.name for kind in KINDS), **other})


def test_a_run_in_which_nothing_was_lost_is_good() -> None:
    assert problems(outcome()) == []


def test_webhooks_may_come_twice_under_one_id() -> None:
    twice = outcome(submissions=[submission(events=[TAKEN, TAKEN])])
    assert problems(twice) == []
    assert "2 taken, 1 of them again" in figures(twice)["webhooks"]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"job_id": None, "refused": "400 no"}, "was not accepted: 400 no"),
        ({"refused": "404 no"}, "was answered 404 no"),
        ({"status": "failed", "attempts": 3, "error": "interrupted"}, "is failed after 3 attempts: interrupted"),
        ({"status": None, "attempts": None}, "is not to be found"),
        ({"text": "one"}, "has another text than undisturbed: 'one'"),
        ({"events": []}, "lost its webhook: none of 0 calls was taken"),
        ({"events": [FAILED]}, "lost its webhook: none of 1 calls was taken"),
        ({"events": [replace(TAKEN, text="one")]}, "another end or text"),
        ({"events": [replace(TAKEN, type="job.failed", text=None)]}, "another end or text"),
        ({"events": [TAKEN, replace(TAKEN, id="msg_b")]}, "has webhooks with 2 ids"),
        ({"events": [TAKEN, replace(TAKEN, body=b"[]")]}, "differ under one id"),
    ],
)
def test_each_thing_that_goes_wrong_with_a_job_is_said(what: dict[str, Any], said: str) -> None:
    one = submission(**what)
    (problem,) = problems(outcome(submissions=[one], listed={one.job_id} - {None}))
    assert problem.startswith("job 0 (en.mp3, ")
    assert said in problem


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"listed": {"a", "b"}}, "job b is a duplicate"),
        ({"listed": set()}, "job a is no longer listed"),
        ({"forged": ["no signature"]}, "can't be trusted: no signature"),
        ({"killed": Counter(kind.name for kind in KINDS[1:])}, f"never killed {KINDS[0].name}"),
        ({"interrupted": None}, "whole cluster was not killed"),
        ({"interrupted": 0}, "whole cluster was not killed"),
        ({"ended_early": "no job ended for 9 s"}, "ended early: no job ended for 9 s"),
    ],
)
def test_each_thing_that_goes_wrong_with_a_run_is_said(what: dict[str, Any], said: str) -> None:
    (problem,) = problems(outcome(**what))
    assert said in problem


def test_the_figures() -> None:
    lost = submission(job_id="b", status="failed", text=None, attempts=3, events=[])
    shown = figures(outcome(submissions=[submission(), lost], listed={"a", "b", "c"}))
    assert shown["jobs"] == "2 submitted, 2 accepted, 1 right, 1 failed, 1 duplicates"
    assert shown["attempts"] == "1 × 1, 3 × 1"
    assert shown["webhooks"] == "2 arrived and valid, 0 not valid, 1 taken, 0 of them again, 1 jobs' lost"
    assert shown["whole cluster"] == "killed with 3 jobs open"
    assert figures(Outcome())["jobs"].startswith("0 submitted")

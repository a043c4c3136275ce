"""How long a server asks to wait, in all the forms of the header."""

from __future__ import annotations

import math
import time
from email.utils import formatdate

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcheo_agentensor.evaluation.paid_calls import retry_after


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("86400", 86400.0),
        ("-3", 0.0),
        ("soon", 0.0),
        ("nan", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_in_seconds(asked: str, seconds: float) -> None:
    assert retry_after(error(asked)) == seconds


def test_retry_after_as_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    assert retry_after(error(formatdate(now + 10, usegmt=True))) == 10.0
    assert retry_after(error(formatdate(now - 10, usegmt=True))) == 0.0
    assert retry_after(ValueError("no response")) == 0.0


@given(st.text())
def test_any_retry_after_is_a_finite_wait(asked: str) -> None:
    class Answer(Exception):
        response = type("R", (), {"headers": {"retry-after": asked}})

    assert 0.0 <= retry_after(Answer()) < math.inf


def error(asked: str) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://agents.example")
    response = httpx.Response(429, headers={"retry-after": asked}, request=request)
    return httpx.HTTPStatusError("busy", request=request, response=response)

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcheo_agentensor.redaction import (
    REDACTED,
    holds_secret,
    is_secret_name,
    knowing,
    redact,
    redact_url,
)

OPENAI_KEY = "sk-proj-4f9a8b7c6d5e4f3a2b1c"


@pytest.mark.parametrize(
    "name",
    [
        "api_key", "apiKey", "x-api-key", "OPENAI_API_KEY", "openai_key", "Authorization",
        "password", "db_password", "token", "access_token", "accessToken", "authToken",
        "client_secret", "Set-Cookie", "cookie", "credentials", "private_key", "auth",
        "aws_secret_access_key", "db_pass", "MYSQL_PASS", "jwt", "session", "PHPSESSID", "pin",
        "user_pin", "pinCode", "otp", "sig", "slack_webhook", "webhook_url", "bot_token",
    ],
)  # fmt: skip
def test_names_of_secrets_are_recognised(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens", "input_tokens", "output_tokens", "tokens", "token_count", "tokenizer", "key",
        "", "primary_key", "public_key", "author", "authority", "secretary", "thread_id",
        "spin", "opinion", "signal", "design", "compass", "passed", "session_id", "pass",
    ],
)  # fmt: skip
def test_other_names_are_not(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.requirement("audit.secrets")
def test_values_under_secret_names_are_replaced_at_any_depth() -> None:
    value = {"a": [{"api_key": "x", "headers": {"Authorization": {"scheme": "x"}}}], "n": 1}
    assert redact(value) == {
        "a": [{"api_key": REDACTED, "headers": {"Authorization": REDACTED}}],
        "n": 1,
    }


@pytest.mark.parametrize("value", [None, "", True])
def test_what_only_says_whether_there_is_a_secret_stays(value: Any) -> None:
    assert redact({"api_key": value}) == {"api_key": value}


def test_counts_of_tokens_stay() -> None:
    usage = {"max_tokens": 100, "input_tokens": 3, "token_count": 4}
    assert redact(usage) == usage


@pytest.mark.parametrize(
    "secret",
    [
        OPENAI_KEY,
        "ghp_" + "a1" * 18,
        "AKIA" + "ABCDEFGH12345678",
        "xoxb-123456789012-abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefgh12345",
        "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_keys_inside_texts_are_replaced(secret: str) -> None:
    shown = redact(f"it failed with {secret} in it")
    assert secret not in shown
    assert shown == f"it failed with {REDACTED} in it"
    assert holds_secret(f"use {secret}")


@pytest.mark.parametrize(
    "text",
    [
        "OperationalError: password={}", "login failed (user=u, passwd='{}')", "pwd: {}",
        "KeyError: {{'api_key': '{}'}}", '{{"client_secret": "{}"}}', '{{\\"apiKey\\": \\"{}\\"}}',
        "host=db port=5432 user=u password={} dbname=x", "Server=h;Database=d;Uid=u;Pwd={};",
        "AccountName=x;AccountKey={};EndpointSuffix=core", "DB_PASS={}", "jwt={}", "pin={}",
        "session={}; Path=/", "Cookie: a={}; b=2", "set-cookie: sid={}", "Authorization: Basic {}",
        "{{'Authorization': 'Bearer {}'}}", "X-Api-Key: {}", "access_token={}&x=1",
        "https://a.blob.core.windows.net/c/b?sv=2024&sig={}0123456789&se=1",
        "https://s3.example/x?X-Amz-Signature={}0123456789&y=1", "https://{}0123456789@git.example/x",
        "https://hooks.slack.com/services/T0/B0/{}", "https://discord.com/api/webhooks/1/{}",
        "https://x.webhook.office.com/webhookb2/{}", "https://api.telegram.org/bot1:{}/send",
        "https://ci.example/hooks/{}", "amqp://u:{}@mq:5672/v", "redis://:{}@cache",
    ],
)  # fmt: skip
def test_values_of_named_secrets_inside_texts_are_replaced(text: str) -> None:
    for canary in ("c4n4ry77", "hunter2x", "zz-9_Q.x"):
        given = text.format(canary)
        assert holds_secret(given)
        assert canary not in redact(given)
        assert canary not in str(redact({"said": [f"it failed: {given}\nand went on"]}))


@pytest.mark.parametrize(
    "text",
    [
        "Never share the password: it is private.", "Set password={password}, token=<token>.",
        '{"token": "refund", "session": "open", "cookie": "chocolate"}', "max_tokens=100",
        "PIN code required: ask for it", "pass: yes; the token: refund", "keys: a, b; key=value",
        "api_key = os.environ['KEY']", "password: ****", "https://example.com/hooks/list?page=2",
        "time: 12:30, ratio=0.5, author=ana, design: v2", "signal=low; assignment: 3",
    ],
)  # fmt: skip
def test_prompts_and_prose_about_secrets_are_left_alone(text: str) -> None:
    assert redact(text) is text


def test_values_of_the_environments_secrets_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DB_PASSWORD", "Wq-77-quiet")
    monkeypatch.setenv("SHOP_API_TOKEN", "localhost")  # a plain word would be found everywhere
    monkeypatch.setenv("SHOP_COLOUR", "Teal-42-shade")
    said = "I use Wq-77-quiet on localhost in Teal-42-shade"
    assert redact({"a": [said]}) == {"a": ["I use [redacted] on localhost in Teal-42-shade"]}


def test_what_a_job_holds_under_secret_names_is_replaced_inside_it() -> None:
    job = {"api_key": "plain-canary-1", "h": [{"Cookie": "sid=plainvalue9; b=2"}], "n": {"pin": 4}}
    with knowing(job, {"headers": {"Authorization": "Bearer other-canary"}}):
        said = redact(["plain-canary-1", "(plainvalue9)", "other-canary", "else"])
        assert said == [REDACTED, f"({REDACTED})", REDACTED, "else"]
    assert redact("plain-canary-1") == "plain-canary-1"


def test_a_bearer_token_is_replaced_and_its_scheme_kept() -> None:
    assert redact("Authorization: Bearer abcdef123456.xyz") == f"Authorization: Bearer {REDACTED}"


def test_prose_is_left_alone() -> None:
    prose = "Bearer of good news: sk-learn and task-oriented-dialogue-systems; token={token}"
    assert redact(prose) == prose
    assert not holds_secret(prose)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:pw@host/db", f"postgresql://me:{REDACTED}@host/db"),
        ("postgresql://:pw@host/db", f"postgresql://:{REDACTED}@host/db"),
        ("https://h/x?api_key=abc&n=1", f"https://h/x?api_key={REDACTED}&n=1"),
        ("https://h:8000/x?max_tokens=1", "https://h:8000/x?max_tokens=1"),
        ("sqlite:///dir/file.db", "sqlite:///dir/file.db"),
    ],
)
def test_urls_lose_password_and_secret_parameters(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert redact(f"could not reach {url}") == f"could not reach {shown}"


def test_a_prompt_is_not_replaced_for_its_name() -> None:
    prompts = {"password_reset": {"type": "TextTensor", "text": "Help them.", "metadata": {}}}
    assert redact(prompts) == prompts


def test_the_original_is_not_changed() -> None:
    value = {"a": {"api_key": "x"}}
    redact(value)
    assert value == {"a": {"api_key": "x"}}


names = st.sampled_from(["a", "api_key", "tokens", "token", "url"])
values = st.recursive(
    st.text(max_size=20)
    | st.lists(
        st.sampled_from(
            [
                OPENAI_KEY,
                "https://u:p@h?token=1",
                "Bearer a1b2c3d4e5f6g7",
                "pin=4 5",
                "jwt=",
                "password: x1",
                "{'api_key': 'a'}",
                "https://hooks.slack.com/services/T/B/x",
                "Cookie: a=b",
            ]
        ),
        max_size=3,
    ).map(" ".join),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
)


@given(values)
def test_redacting_twice_changes_nothing_more(value: Any) -> None:
    assert redact(redact(value)) == redact(value)


@pytest.mark.parametrize(
    "unit",
    [
        "pin=",
        "password:",
        "password='",
        "a.b=",
        "x_",
        "hooks/",
        "Cookie: ",
        "key: ",
        "https://a.hooks/",
        "sk-",
        "eyJ-",
        "a",
        "a-",
        "a://",
        "://a:",
        "Bearer ",
        "?a",
        "ghp_",
        "-----BEGIN A",
        "A",
    ],
)
def test_no_text_takes_long(unit: str) -> None:
    text = unit * (200_000 // len(unit)) + "://=" + unit
    started = time.thread_time()
    redact({text: text})
    holds_secret(text)
    assert time.thread_time() - started < 5

"""The client of the judge's endpoint, against a server in this process that fails in every way."""

import itertools
import json
import logging
import pickle
import threading

import pytest
from judge_server import TOKENS, completion, serving

from actors.rewards import endpoint
from actors.rewards.endpoint import Endpoint, Mistaken, check_address, pause
from raysearch.errors import ConfigError, RewardError

BODY = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}]}]}
SECRET = "sk-proj-Z9aZ9aZ9aZ9aZ9aZ9aZ9a"
DATE = {"Date": "Wed, 01 Jan 2025 00:00:00 GMT", "Retry-After": "Wed, 01 Jan 2025 00:00:42 GMT"}
BAD = b'{"choices": [{"message": {"content": "no"}, "finish_reason": "stop"}], "usage": {"total_tokens": 7}}'


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")


def read(answer):
    if (text := endpoint.text_of(answer)) != "good":
        raise Mistaken(f"is {text!r}")
    return text


def asking(faults=(), body=BODY, **arguments):
    """The outcome of one question, the seconds waited, and the server."""
    waited = []
    with serving(answer=lambda body: completion("good"), faults=faults) as server:
        client = Endpoint(server.url, **{"wait": waited.append, **arguments})
        try:
            return client.ask(body, read), waited, server
        except RewardError as error:
            return error, waited, server


def test_an_answer_is_asked_for_once():
    found, waited, server = asking()
    assert found == ("good", TOKENS) and waited == []
    assert server.bodies == [BODY] and server.keys == [None]


@pytest.mark.parametrize("fault", [408, 425, 429, 500, 503, 529, "unread", "dropped", "torn", b"<html>", b"[]", BAD])
def test_what_fails_is_asked_again(fault):
    found, waited, server = asking([fault, fault])
    assert found == ("good", TOKENS + (14 if fault == BAD else 0))
    content = json.dumps(BODY, ensure_ascii=False).encode()
    assert waited == [pause(content, 1), pause(content, 2)]
    assert len(server.keys) == 3 and sum(server.answered.values()) == (3 if isinstance(fault, bytes) else 1)


@pytest.mark.parametrize(
    ("headers", "least"),
    [({"Retry-After": "7"}, 7), ({"Retry-After": "0"}, 0), ({"Retry-After": "soon"}, 0), (DATE, 42), ({}, 0)],
)
def test_a_server_says_how_long_to_wait(headers, least):
    found, (waited,), _ = asking([(429, headers)])
    assert found[0] == "good"
    assert waited == max(least, pause(json.dumps(BODY).encode(), 1))


def test_a_wait_that_is_too_long_is_an_error():
    error, waited, server = asking([(429, {"Retry-After": "86400"})])
    assert "status 429: no, None, not now (it asks to wait for 86400 s)" in str(error)
    assert waited == [] and len(server.keys) == 1


def test_pauses_grow_and_come_apart():
    contents = [bytes([i]) for i in range(200)]
    for attempt, most in ((1, 1.0), (2, 2.0), (6, 32.0), (7, 60.0), (50, 60.0)):
        found = [pause(c, attempt) for c in contents]
        assert found == [pause(c, attempt) for c in contents]
        assert most / 2 <= min(found) < 0.52 * most and 0.98 * most < max(found) <= most
        assert len(set(found)) == 200


def test_attempts_end():
    error, waited, server = asking(itertools.repeat(503), attempts=3)
    assert str(error).endswith("gave no answer in 3 attempts, in the last of which status 503: no, None, not now")
    assert len(waited) == 2 and len(server.keys) == 3


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 404, 413, 422])
def test_what_is_refused_for_good_is_one_line_with_the_servers_words(status):
    error, waited, server = asking([(status, {"Location": "http://127.0.0.1:1/v1"})])
    assert isinstance(error, RewardError) and str(error).isprintable()
    assert str(error).endswith(f"/v1/chat/completions refused the request: status {status}: no, None, not now")
    assert waited == [] and len(server.keys) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"error": {"message": "no such model"}}', "no such model"),
        (b'{"object": "error", "message": "no such\\nmodel"}', "no such model"),
        (b'{"error": "no such model"}', "no such model"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"\xff\x1b[2Jwhat?", "\N{REPLACEMENT CHARACTER}?[2Jwhat?"),
        (b"", ""),
    ],
)
def test_a_servers_words_in_every_form(content, said):
    assert endpoint.plain(endpoint._message(content, "")) == said


def test_a_slow_answer_is_lost():
    error, waited, server = asking(["slow", "slow"], timeout=0.5, attempts=2)
    assert str(error).endswith("in the last of which no answer came within timeout, 0.5 s")
    assert len(waited) == 1 and len(server.keys) == 2


def test_an_answer_that_trickles_is_lost():
    ticks = itertools.count(0, 200.0)
    error, _, _ = asking(attempts=1, clock=lambda: next(ticks))
    assert str(error).endswith("the answer took longer than timeout, 120 s")


def test_an_answer_without_end_is_not_read(monkeypatch):
    monkeypatch.setattr(endpoint, "MOST", 1000)
    error, _, _ = asking([b" " * 2000], attempts=1)
    assert str(error).endswith("the answer was longer than 1000 bytes")


def test_nobody_listens():
    with serving() as server:
        url = server.url
    with pytest.raises(RewardError, match="the connection failed: ConnectError"):
        Endpoint(url, attempts=1).ask(BODY, read)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({}, "is no chat completion"),
        ({"choices": []}, "is no chat completion"),
        ({"choices": [None]}, "is no chat completion"),
        ({"choices": [{}]}, "has no text"),
        ({"choices": [{"message": {"content": None}}]}, "has no text"),
        ({"choices": [{"message": {"content": "go"}, "finish_reason": "length"}]}, "was cut off at max_tokens"),
    ],
)
def test_what_is_no_answer(answer, said):
    with pytest.raises(Mistaken, match=said):
        endpoint.text_of(answer)


def test_many_threads_ask_at_once():
    body = [BODY | {"model": str(i)} for i in range(64)]
    with serving(answer=lambda body: completion(body["model"]), faults=[429, None, "dropped", 500] * 8) as server:
        client, found = Endpoint(server.url, wait=lambda _: None, attempts=40), {}

        def ask(share):
            for i in share:
                found[i] = client.ask(body[i], endpoint.text_of)[0]

        threads = [threading.Thread(target=ask, args=(range(k, 64, 8),)) for k in range(8)]
        [t.start() for t in threads], [t.join() for t in threads]
    assert found == {i: str(i) for i in range(64)}
    assert set(server.answered.values()) == {1}


# -- the key -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["localhost:8000/v1", "ftp://x/v1", "http://", "http://u:SECRET@x/v1", "http://x/v1?key=SECRET", "http://x:y/v1"],
)
def test_an_address_with_a_secret_is_refused_and_not_shown(url):
    with pytest.raises(ConfigError, match=r"^url: the value, which is not shown, ") as raised:
        check_address(url, None)
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize("key", [SECRET, "", "hf_abcDEF", "AIzaSyA1b2C3", "AKIAIOSFODNN7EXAMPLE", "A B", "gsk_0a"])
def test_a_key_in_place_of_a_variables_name_is_refused_and_not_shown(key):
    with pytest.raises(ConfigError, match=r"^key: the value, which is not shown, ") as raised:
        Endpoint("http://localhost:8000/v1", key=key)
    assert not key or key not in str(raised.value)


@pytest.mark.parametrize("key", ["OPENAI_API_KEY", "GEMINI_API_KEY", "KEY2", "MY_VERY_OWN_SECRET", None])
def test_names_of_variables(key):
    check_address("https://generativelanguage.googleapis.com/v1beta/openai/", key)


def test_the_key_is_read_when_a_request_is_sent(monkeypatch):
    with serving(answer=lambda body: completion("good")) as server:
        client = Endpoint(server.url, key="JUDGE_KEY")
        for secret in (SECRET, f" {SECRET}2\n"):
            monkeypatch.setenv("JUDGE_KEY", secret)
            assert client.ask(BODY, read)[0] == "good"
    assert server.keys == [f"Bearer {SECRET}", f"Bearer {SECRET}2"]


UNUSABLE = {None: "is not set", " ": "is not set", f"{SECRET}\n{SECRET}": "holds no API key"}


@pytest.mark.parametrize("secret", UNUSABLE)
def test_a_variable_without_a_key(monkeypatch, secret):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if secret is not None:
        monkeypatch.setenv("JUDGE_KEY", secret)
    error, waited, server = asking(key="JUDGE_KEY")
    assert "JUDGE_KEY" in str(error) and UNUSABLE[secret] in str(error) and SECRET not in str(error)
    assert server.keys == [] and waited == []


def remembered(error):
    """Whatever hangs on an error: its text, its fields, its pickle, and those of the errors before it."""
    while error is not None:
        yield repr(error) + str(error) + repr(vars(error)) + repr(pickle.dumps(error))
        error = error.__cause__ or error.__context__


ECHO = json.dumps({"choices": [{"message": {"content": f"your key is {SECRET}"}}]}).encode()


@pytest.mark.parametrize("fault", [401, 429, 500, "dropped", "torn", "slow", "unread", ECHO, b"<html>"])
def test_no_error_and_no_log_has_the_key(monkeypatch, caplog, capfd, fault):
    """The server repeats the header with the key in its own message."""
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    with caplog.at_level(logging.DEBUG):
        error, _, server = asking(
            itertools.repeat(fault), key="JUDGE_KEY", attempts=2, timeout=0.1 if fault == "slow" else 9
        )
    assert f"Bearer {SECRET}" in server.keys and isinstance(error, RewardError)
    assert not [text for text in remembered(error) if SECRET in text]
    assert SECRET not in caplog.text and SECRET not in "".join(capfd.readouterr())
    if isinstance(fault, int):
        assert "no, Bearer ***, not now" in str(error)


def test_a_question_has_an_end():
    """Waits and attempts together are bounded: a scorer that takes longer would count as hung."""
    now = [0.0]
    waits = {"wait": lambda s: now.__setitem__(0, now[0] + s), "clock": lambda: now[0]}
    error, _, server = asking(itertools.repeat((429, {"Retry-After": "200"})), attempts=50, **waits)
    assert str(error).endswith("gave no answer in 480 s, at last: status 429: no, None, not now")
    assert len(server.keys) == 3 and now[0] == 400


def test_a_call_of_several_questions_has_one_end():
    now = [0.0]
    with serving(answer=lambda body: completion("good")) as server:
        client = Endpoint(server.url, clock=lambda: now[0])
        until = client.until()
        assert client.ask(BODY, read, until)[0] == "good"
        now[0] = 481.0
        with pytest.raises(RewardError, match=r"gave no answer in 480 s, at last: no time was left"):
            client.ask(BODY, read, until)
    assert len(server.keys) == 1


def test_an_endpoint_is_reached_without_a_question():
    with serving() as server:
        Endpoint(server.url).reach()
        url = server.url
    assert server.bodies == []
    waited = []
    with pytest.raises(ConfigError, match=rf"^url: {url} cannot be reached: the connection failed"):
        Endpoint(url, wait=waited.append).reach()
    assert len(waited) == 2


def test_a_refused_key_is_said_before_a_run_and_not_shown(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    with serving(refuses=SECRET) as server, pytest.raises(ConfigError) as raised:
        Endpoint(server.url, key="JUDGE_KEY").reach()
    assert str(raised.value) == f"key: {server.url} refuses the key in JUDGE_KEY: no, Bearer ***"


def test_a_key_that_is_cut_off_is_not_shown_either(monkeypatch):
    """A message is shortened before it is shown, which must not leave a part of the key."""
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    for blanks in range(150, 230, 7):
        answer = completion("x" * blanks + SECRET)
        error, _, _ = asking([json.dumps(answer).encode()], key="JUDGE_KEY", attempts=1)
        assert SECRET[:8] not in str(error)

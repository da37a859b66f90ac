"""A client of an OpenAI-compatible endpoint that asks again where the network or the server fails.

The API key is in no object of this module: it is read from the environment when a request is sent, and taken out of
whatever the server says.
"""

import json
import os
import re
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from raysearch.config.address import hidden, is_bare
from raysearch.errors import ConfigError, RewardError, plain
from raysearch.recipe.digests import digest

T = TypeVar("T")

MOST = 2**22  # bytes of an answer
WHOLE_S = 480.0  # of all that one candidate asks: below fleet.timeout_s, after which a scorer counts as hung
LONGEST_S = 60.0  # of a wait that the client chooses
PATIENCE_S = 300.0  # of a wait that the server asks for: half of fleet.timeout_s, after which a scorer counts as hung
AGAIN = (408, 425, 429)  # the statuses below 500 after which the same request may succeed
VARIABLE = re.compile(r"[A-Z][A-Z0-9]{0,15}(_[A-Z0-9]{1,16})*")  # a key would be longer, or have small letters


LATE = "no time was left for another attempt"


class Mistaken(ValueError):
    """An answer of the server that does not answer the question. The message ends "the answer ..."."""


@dataclass(frozen=True)
class Reply:
    """What came back for one request: either a status with its content, or `lost`, why nothing came."""

    lost: str = ""
    status: int = 0
    headers: Mapping[str, str] | None = None
    content: bytes = b""


def check_address(url: str, key: str | None) -> None:
    """Raises ConfigError unless `url` is an address without secrets and `key` is the name of a variable, or None.

    A wrong value may be a secret, so the error does not show it.
    """
    if not (is_bare(url) and url.isascii() and urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname):
        allowed = "an address such as http://localhost:8000/v1, without a user's name, a password, `?` or `#`"
        raise hidden("url", allowed)
    if key is not None and not VARIABLE.fullmatch(key):
        allowed = "the name of an environment variable, in capital letters, such as OPENAI_API_KEY, never the key"
        raise hidden("key", allowed)


class Endpoint:
    """POSTs questions to `url`/chat/completions. Safe to use from several threads at a time.

    `key` names the environment variable with the API key, if the endpoint wants one. An answer that takes longer than
    `timeout` seconds counts as lost. `wait` is called with seconds before a question is asked again.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 120.0,
        attempts: int = 6,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_address(url, key)
        self.base = url.rstrip("/")
        self.url = f"{self.base}/chat/completions"
        self._variable, self._timeout, self._attempts = key, timeout, attempts
        self._wait, self._clock = wait, clock
        # Redirects are not followed: they could lead the frames and the key elsewhere.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.Client(timeout=timeout, limits=limits, follow_redirects=False)
        weakref.finalize(self, self._client.close)

    def until(self) -> float:
        """When questions that begin now must be answered, by the clock."""
        return self._clock() + WHOLE_S

    def reach(self) -> None:
        """Raises ConfigError unless the server answers, whatever it says, and takes the key."""
        secret, said = self._secret(), ""
        for attempt in range(1, 4):
            reply = self._send("GET", f"{self.base}/models", b"", secret, self._timeout)
            if reply.status in (401, 403):
                said = plain(_without(_message(reply.content, secret), secret), 400)
                raise ConfigError(f"key: {self.base} refuses the key in {self._variable or 'no variable'}: {said}")
            if not reply.lost:
                return
            said = reply.lost
            if attempt < 3:
                self._wait(pause(b"models", attempt))
        raise ConfigError(f"url: {self.base} cannot be reached: {plain(_without(said, secret), 400)}")

    def ask(self, body: Mapping[str, Any], read: Callable[[Any], T], until: float | None = None) -> tuple[T, int]:
        """What `read` makes of the answer to a question, and the tokens paid for, in all attempts before `until`.

        `read` raises Mistaken for an answer that is none; then, and after a lost connection or a status 408, 425, 429
        or 5xx, the question is asked again. Raises RewardError after the last attempt and for any other status.
        """
        content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        tokens, said, end = 0, "", self.until() if until is None else until
        for attempt in range(1, self._attempts + 1):
            secret = self._secret()
            left = min(self._timeout, end - self._clock())
            reply = self._send("POST", self.url, content, secret, left) if left > 0 else Reply(lost=LATE)
            asked_for = _retry_after(reply.headers)
            if reply.lost:
                said = reply.lost
            elif reply.status == 200:
                answer = _json(reply.content)
                tokens += _tokens(answer)
                try:
                    return read(answer), tokens
                except Mistaken as error:
                    said = f"the answer {error}"
            else:
                said = f"status {reply.status}: {_message(reply.content, secret)}"
            said = plain(_without(said, secret), 400)
            lasting = reply.status and reply.status not in (200, *AGAIN) and reply.status < 500
            if lasting or asked_for > PATIENCE_S:
                more = f" (it asks to wait for {asked_for:.0f} s)" if asked_for > PATIENCE_S else ""
                raise RewardError(f"{self.url} refused the request: {said}{more}")
            wait = max(asked_for, pause(content, attempt))
            if reply.lost == LATE or self._clock() + wait > end:
                raise RewardError(f"{self.url} gave no answer in {WHOLE_S:g} s, at last: {said}")
            if attempt < self._attempts:
                self._wait(wait)
        raise RewardError(f"{self.url} gave no answer in {self._attempts} attempts, in the last of which {said}")

    def check_key(self) -> None:
        """Raises ConfigError where the environment of this process has no API key, and one is needed."""
        try:
            self._secret()
        except RewardError as error:
            raise ConfigError(str(error)) from None

    def _secret(self) -> str:
        """The API key; empty if the endpoint wants none. Raises RewardError where the variable has none."""
        if self._variable is None:
            return ""
        secret = os.environ.get(self._variable, "").strip()
        if not secret.isascii() or not secret.isprintable() or not secret:  # no error of httpx must show it
            wrong = "holds no API key" if secret else "is not set"
            raise RewardError(f"key: the environment variable {self._variable} {wrong} where this scorer runs")
        return secret

    def _send(self, method: str, url: str, content: bytes, secret: str, timeout: float) -> Reply:
        """One request. No exception of httpx leaves this method, since each holds the request with its headers."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers |= {"Authorization": f"Bearer {secret}"} if secret else {}
        began, found = self._clock(), bytearray()
        try:
            sent = self._client.stream(method, url, content=content, headers=headers, timeout=timeout)
            with sent as response:
                for piece in response.iter_bytes():
                    found += piece
                    if len(found) > MOST:
                        return Reply(lost=f"the answer was longer than {MOST} bytes")
                    if self._clock() - began > timeout:  # httpx bounds only the time between two pieces
                        return Reply(lost=f"the answer took longer than timeout, {self._timeout:g} s")
            content = bytes(found).replace(secret.encode(), b"***") if secret else bytes(found)
            return Reply("", response.status_code, response.headers, content)
        except httpx.TimeoutException:
            return Reply(lost=f"no answer came within timeout, {self._timeout:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Reply(lost=f"the connection failed: {type(error).__name__}: {_without(str(error), secret)}")


def pause(content: bytes, attempt: int) -> float:
    """The seconds to wait after a failed attempt, which is 1 for the first: 1, 2, 4, ... 60, less up to a half.

    How much less depends on the request and the attempt alone, so that requests that failed together come back apart.
    """
    u = int.from_bytes(digest("pause", content, attempt)[:8], "big") / 2**64
    return min(LONGEST_S, 2.0 ** (attempt - 1)) * (1 - u / 2)


def _retry_after(headers: Mapping[str, str] | None) -> float:
    """The seconds that a server asks to wait; 0 if it does not. A date is held against the server's own clock."""
    asked = (headers or {}).get("retry-after", "")
    try:
        seconds = float(asked)
    except ValueError:
        try:
            now = parsedate_to_datetime((headers or {}).get("date", ""))
            seconds = (parsedate_to_datetime(asked) - now).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(0.0, seconds) if seconds == seconds else 0.0


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _tokens(answer: Any) -> int:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if type(total) is int and 0 <= total < 2**53 else 0


def _message(content: bytes, secret: str) -> str:
    """What a server says in the content of an error: OpenAI's and vLLM's form of it, or the text."""
    text: Any = content.decode(errors="replace")
    found = _json(content)
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            text = found = found[name]
    return _without(str(text), secret)


def _without(text: str, secret: str) -> str:
    return text.replace(secret, "***") if secret else text


def first_choice(answer: Any) -> dict[str, Any]:
    """The first choice of a chat completion. Raises Mistaken for anything else."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Mistaken("is no chat completion")
    return choices[0]


def text_of(answer: Any) -> str:
    """The text of a chat completion. Raises Mistaken where there is none, or where it was cut off."""
    choice = first_choice(answer)
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if choice.get("finish_reason") == "length":
        raise Mistaken("was cut off at max_tokens")
    if not isinstance(text, str):
        raise Mistaken("has no text")
    return text

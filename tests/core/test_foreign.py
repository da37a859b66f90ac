"""What users write and what files hold: texts that are shown or stored, and code that fails in any way."""

import asyncio
import io

import pyarrow.parquet as pq
import pytest
from fakes import session
from rich.console import Console

from raysearch.errors import MOST, plain, told
from raysearch.session import display
from raysearch.testing import run_virtual


class Unreadable(Exception):
    """An error whose message raises."""

    def __str__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("as it is: ä 漢 \U0001f600", "as it is: ä 漢 \U0001f600"),
        (" two\n lines\tand\x0b\xa0spaces \r\n", "two lines and spaces"),
        ("\x1b[31mred\x1b[0m\x07", "?[31mred?[0m?"),
        ("\x9b2J", "?2J"),
        ("half of a pair: \ud800", "half of a pair: ?"),
        ("turned \u202eround\u202c and joined\u200d", "turned round and joined"),
        (3.5, "3.5"),
        (Unreadable(), "(the text of Unreadable cannot be read: ZeroDivisionError)"),
    ],
)
def test_a_foreign_text_is_one_printable_line(text, line):
    assert plain(text) == line
    assert plain(plain(text)) == plain(text)


def test_of_a_long_text_both_ends_are_shown():
    line = plain("begin " + "x" * 50_000_000 + " end")
    assert MOST < len(line) < MOST + 50
    assert line.startswith("begin x") and line.endswith("x end")
    assert "characters left out" in line


def test_a_printed_line_is_plain():
    out = io.StringIO()
    display.say(Console(file=out, width=120))("\x1b]0;title\x07 [bold]a\nb")
    assert out.getvalue() == "?]0;title? [bold]a b\n"


async def fail(ctx, *, how: str = ""):
    """A policy that fails for one prompt only, in the run and not in the dry run."""
    await ctx.score(ctx.denoise(ctx.noise(1)))
    if ctx.prompt.text == "a" and ctx.charged.replica_seconds:
        await WAYS[how]()
    return ctx.best


def raising(error):
    async def way():
        raise error

    return way


async def cancels_itself():
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def cancels_another():
    other = asyncio.ensure_future(asyncio.sleep(1))
    await asyncio.sleep(0)
    other.cancel()
    await other


class Base(BaseException):
    """None of Exception's."""


WAYS = {
    "surrogates": raising(ValueError("bad \ud800 name \x1b[2J")),
    "unreadable": raising(Unreadable()),
    "long": raising(ValueError("x" * 50_000_000)),
    "base": raising(Base("mine")),
    "exit": raising(SystemExit(3)),
    "interrupt": raising(KeyboardInterrupt()),
    "cancelled": raising(asyncio.CancelledError()),
    "generator": raising(GeneratorExit()),
    "group": raising(ExceptionGroup("several", [ValueError("the one")])),
    "stop": raising(StopAsyncIteration("end")),
    "cancels itself": cancels_itself,
    "cancels another": cancels_another,
}
REASONS = {
    "surrogates": "ValueError: bad ? name ?[2J",
    "unreadable": "Unreadable: (the text of Unreadable cannot be read: ZeroDivisionError)",
    "base": "Base: mine",
    "exit": "SystemExit: 3",
    "interrupt": "KeyboardInterrupt",
    "cancelled": "CancelledError",
    "generator": "GeneratorExit",
    "group": "ValueError: the one",
    "cancels itself": "CancelledError",
    "cancels another": "CancelledError",
}


@pytest.mark.parametrize("how", WAYS)
def test_whatever_a_policy_raises_fails_its_search_alone(tmp_path, how):
    said = []
    made = session(tmp_path / "run", policy={"name": "test_foreign:fail", "how": how})
    made.report = said.append
    progress = run_virtual(made.run([]))
    rows = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert [r["status"] for r in rows] == ["failed", "done"]
    assert progress.failed == 1
    assert REASONS.get(how, "") in rows[0]["reason"]
    assert len(rows[0]["reason"]) < 2 * MOST
    assert said == [f"{rows[0]['search_id']} failed: {rows[0]['reason']}"]


def test_an_error_is_told_by_its_class_and_message():
    assert told(ValueError("a\nb")) == "ValueError: a b"
    assert told(ValueError()) == "ValueError"
    assert told(ExceptionGroup("several", [KeyError("x")])) == "KeyError: 'x'"

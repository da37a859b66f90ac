"""What takes long is announced, and what is quick is not."""

from threading import Event

from raysearch.threads import announced


def test_what_takes_long_is_announced_while_it_runs():
    lines, said = [], Event()

    def say(line: str) -> None:
        lines.append(line)
        said.set()

    with announced("it goes on", say, after=0):
        assert said.wait(60)
    assert lines == ["it goes on"]


def test_what_is_quick_is_not_announced():
    lines: list[str] = []
    with announced("it goes on", lines.append, after=60):
        pass
    assert lines == []

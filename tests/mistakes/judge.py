"""Mistakes in the block of the reward `judge`. What may be a secret is not shown."""

from mistakes import Mistake

KEY = "sk-proj-Z9aZ9aZ9aZ9aZ9aZ9aZ9a"
HIDDEN = "the value, which is not shown, is not allowed; it must be"


def judge(more: str, line: str, url: str = "'http://localhost:8000/v1'") -> Mistake:
    """A config that searches by a judge; `more` is what else its block says."""
    block = f"{{name: judge, url: {url}, model: m{f', {more}' if more else ''}}}"
    return Mistake([f"rewards.search={block}"], f"rewards.search.{line}", heavy=True)


UNSET = "{name: judge, url: 'http://localhost:8000/v1', model: m, key: NO_SUCH_KEY}"
TABLE = [
    Mistake(
        [f"rewards.search={UNSET}"],
        "rewards.search.key: the environment variable NO_SUCH_KEY is not set where this scorer runs",
        heavy=True,
        late=True,
    ),
    judge(f"key: {KEY}", f"key: {HIDDEN} the name of an environment variable, ..., never the key"),
    judge("", f"url: {HIDDEN} an address such as http://localhost:8000/v1, ...", url=f"'https://u:{KEY}@host/v1'"),
    judge("", f"url: {HIDDEN} an address such as http://localhost:8000/v1, ...", url=f"'https://host/v1?key={KEY}'"),
    judge("mode: compare", "mode: 'compare' is not allowed; it must be one of rubric, yes"),
    judge("frames: 0", "frames: 0 is not allowed; it must be at least 1"),
    judge("quality: 0", "quality: 0 is not allowed; it must be at least 1"),
    judge("send: mp4", "send: 'mp4' is not allowed; it must be one of images, video"),
    judge("criteria: {}", "criteria: {} is not allowed; it must be a mapping of one or more names to texts"),
    judge(
        "criteria: {a b: c}",
        "criteria: 'a b' is not allowed; it must be a mapping whose names are of letters, digits and _",
    ),
    judge("criteria: {sigma: c}", "name: 'Judge' ... with no component called 'sigma', which is a column of its own"),
    judge(
        "questions: {a: b}",
        "questions: {'a': 'b'} is not allowed; it must be left out with mode 'rubric', which asks criteria",
    ),
    judge("weights: {beauty: 1}", "weights: 'beauty' is not allowed; it must be one of alignment, quality, motion"),
]

"""A vision-language model behind an OpenAI-compatible endpoint (vLLM, SGLang, Ollama, Gemini, OpenAI, ...) as a judge.

It scores a rubric (as VideoScore and UnifiedReward do), answers yes or no, whose probability is the score (VQAScore,
2404.01291), or compares two videos, in both orders, since judges prefer a place (Zheng et al., 2306.05685).
"""

import base64
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Interval
from PIL import Image

from actors.rewards import Answer, View
from actors.rewards.endpoint import Endpoint, Mistaken, check_address, first_choice, text_of
from actors.rewards.judgements import Judgements
from raysearch.config.numbers import Count, Positive
from raysearch.errors import RewardError, check, plain

CRITERIA = {
    "alignment": "everything that the caption names is there, looks as it says and moves as it says, and nothing else",
    "quality": "every frame is sharp and clean, with whole shapes, plausible light, and no artifacts",
    "motion": "things move smoothly and plausibly, and stay the same things from frame to frame",
}
QUESTIONS = {"yes": 'Does this video show "{prompt}"? Please answer yes or no.'}
NAME = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)
BEST = 10  # of a criterion; the worst is 0
SPACES = " \t\r\n▁Ġ"  # the latter two begin a word in the vocabularies of SentencePiece and of GPT-2
CHOICES = ("first", "second", "tie")

Numbers = Callable[[Any], list[float]]  # reads an answer; raises Mistaken


class Judge:
    """Scores frames by asking the model `model` at `url`, such as http://localhost:8000/v1.

    `key` is the name of the environment variable with the API key, if one is needed. The model is shown `frames` frames
    at equal distances, from the first to the last, as JPEGs of `quality`, shrunk to `side` pixels on their longer side
    if they are larger. They are sent as `images`, or as one `video`, which vLLM alone takes.

    With mode `rubric` components are the names of `criteria`, each scored from 0 to 10; with mode `yes` those of
    `questions`, each the probability of yes against no as the first token of the answer, from 0 to 1. `{prompt}` in the
    texts of either is the caption. `body` holds more fields of each request; null leaves a field out.

    A question is asked up to `attempts` times, each of `timeout` seconds at most. With `cache`, true or a folder,
    answers are kept on disk. A call raises RewardError where no answer can be had.
    """

    components: tuple[str, ...] = tuple(CRITERIA)
    needs: Literal["latent", "estimate", "frames"] = "frames"
    waits: ClassVar[bool] = True

    def __init__(
        self,
        *,
        url: str,
        model: str,
        key: str | None = None,
        frames: Count = 8,
        send: Literal["images", "video"] = "images",
        side: Count | None = None,
        quality: Annotated[int, Interval(ge=1, le=100)] = 95,
        mode: Literal["rubric", "yes"] = "rubric",
        criteria: dict[str, str] | None = None,
        questions: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        timeout: Positive = 120.0,
        attempts: Annotated[int, Interval(ge=1, le=100)] = 6,
        cache: bool | str = True,
    ) -> None:
        check_address(url, key)
        for name in ("messages", "model", "n", "stream"):
            check(name not in (body or {}), f"body.{name}", (body or {}).get(name), "left out: the judge fills it in")
        self.asked = asked(mode, criteria, questions)
        self.components = tuple(self.asked)
        self.endpoint = Endpoint(url, key=key, timeout=timeout, attempts=attempts)
        self.endpoint.check_key()
        self._kept = Judgements.opened(cache)
        self._mode, self._model, self._more = mode, model, dict(body or {})
        self._frames, self._send, self._side, self._quality = frames, send, side, quality

    @staticmethod
    def named(
        *,
        url: str,
        model: str,
        key: str | None,
        frames: int,
        send: str,
        side: int | None,
        quality: int,
        mode: str,
        criteria: dict[str, str] | None,
        questions: dict[str, str] | None,
        body: dict[str, Any] | None,
        timeout: float,
        attempts: int,
        cache: bool | str,
    ) -> tuple[str, ...]:
        """The components of a judge. Raises ConfigError for arguments that the constructor refuses."""
        check_address(url, key)
        return tuple(asked(mode, criteria, questions))

    def __call__(self, views: Sequence[View]) -> Answer:
        """Scores (len(views), len(components)), and the tokens of each view; the cache's answers cost what they did."""
        found = [self._scored(view) for view in views]
        return Answer([scores for scores, _ in found], [tokens for _, tokens in found])

    def reach(self) -> None:
        """Raises ConfigError where the endpoint cannot be reached, or refuses the key; asks nothing that costs."""
        self.endpoint.reach()

    def compare(self, pairs: Sequence[tuple[View, View]]) -> Answer:
        """How much the first of each pair is preferred, from 0 to 1; both are videos of the first one's caption.

        Each pair is asked about in both orders, and the mean of both answers is returned, so a judge that always takes
        the video in one place says 0.5.
        """
        found = [self._compared(a, b) for a, b in pairs]
        return Answer([p for p, _ in found], [tokens for _, tokens in found])

    def _scored(self, view: View) -> tuple[list[float], int]:
        shown, until = self._shown(view), self.endpoint.until()
        wanted = self._wanted(view)
        if self._mode == "rubric":
            names = self.components
            text = [
                f"The caption of this video is: {view.prompt}",
                f"Score each criterion with a number from 0, the worst, to {BEST}, the best:",
                *(f"- {name}: {what}" for name, what in wanted.items()),
                f"Answer with one JSON object with the keys {', '.join(names)}, and with nothing else.",
            ]
            schema = {name: {"type": "number", "description": what} for name, what in wanted.items()}
            body = self._request([*shown, _text("\n".join(text))]) | _structured("scores", schema)
            return self._asked(body, partial(scores_of, names=names), len(names), until)
        found = []
        for question in wanted.values():
            content = [*shown, _text(question)]
            more = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
            found.append(self._asked(self._request(content) | more, lambda answer: [yes_of(answer)], 1, until))
        return [numbers[0] for numbers, _ in found], sum(tokens for _, tokens in found)

    def _compared(self, a: View, b: View) -> tuple[float, int]:
        """The probability that `a` is better, and the tokens paid for."""
        seen, until = (self._shown(a), self._shown(b)), self.endpoint.until()
        text = [
            f"The caption of both videos is: {a.prompt}",
            "Which video is better by these criteria?",
            *(f"- {name}: {what}" for name, what in self._wanted(a).items()),
            'Answer with one JSON object and with nothing else. "better" is "first", "second" or "tie"; '
            '"confidence" is a number from 0, a guess, to 1, certain.',
        ]
        schema = {"better": {"type": "string", "enum": list(CHOICES)}, "confidence": {"type": "number"}}
        found = []
        for first, second in (seen, seen[::-1]):
            content = [_text("The first video:"), *first, _text("The second video:"), *second, _text("\n".join(text))]
            found.append(self._asked(self._request(content) | _structured("comparison", schema), lead_of, 1, until))
        ((one,), paid), ((other,), more) = found
        return (1 + (one - other) / 2) / 2, paid + more  # the mean of (1 + one) / 2 and of (1 - other) / 2

    def _asked(self, body: dict[str, Any], read: Numbers, n: int, until: float) -> tuple[list[float], int]:
        """The `n` numbers of an answer, and the tokens that they cost."""
        body = {k: v for k, v in (body | self._more).items() if v is not None}
        key = self._kept.key(body)
        if (kept := self._kept.read(key, n)) is not None:
            return kept
        numbers, tokens = self.endpoint.ask(body, read, until)
        self._kept.write(key, numbers, tokens)
        return numbers, tokens

    def _wanted(self, view: View) -> dict[str, str]:
        """What is asked about a view, by component."""
        return {name: what.replace("{prompt}", view.prompt) for name, what in self.asked.items()}

    def _request(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"model": self._model, "messages": [{"role": "user", "content": content}], "temperature": 0}

    def _shown(self, view: View) -> list[dict[str, Any]]:
        """The parts of a message that show a view: its frames, and when they are."""
        if view.frames is None or not len(view.frames):
            raise ValueError("the judge needs frames: uint8 (frames >= 1, H, W, 3)")
        chosen = uniform(len(view.frames), self._frames)
        files = [base64.b64encode(jpeg(view.frames[i], self._quality, self._side)).decode() for i in chosen]
        times = ", ".join(f"{i / view.fps:.2f}" for i in chosen)
        said = _text(f"These are {len(chosen)} frames of a video, in their order. They are at {times} seconds.")
        if self._send == "video":
            return [{"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{','.join(files)}"}}, said]
        images = [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{file}"}} for file in files]
        return [*images, said]


def asked(mode: str, criteria: Mapping[str, str] | None, questions: Mapping[str, str] | None) -> dict[str, str]:
    """What a judge is asked, by component. Raises ConfigError for names and texts that cannot be asked."""
    key, given, other = ("criteria", criteria, questions) if mode == "rubric" else ("questions", questions, criteria)
    unused = "questions" if mode == "rubric" else "criteria"
    check(other is None, unused, other, f"left out with mode {mode!r}, which asks {key}")
    found = dict(given if given is not None else CRITERIA if mode == "rubric" else QUESTIONS)
    check(bool(found), key, found, "a mapping of one or more names to texts")
    for name, text in found.items():
        check(bool(NAME.fullmatch(name)), key, name, "a mapping whose names are of letters, digits and _")
        check(bool(text.strip()), f"{key}.{name}", text, "a text that says what is judged")
    return found


def uniform(n: int, most: int) -> list[int]:
    """The indices of `most` of n frames at equal distances, with the first and the last; all if there are no more."""
    return list(range(n)) if n <= most else [int(i) for i in np.rint(np.linspace(0, n - 1, most))]


def jpeg(frame: np.ndarray, quality: int, side: int | None) -> bytes:
    """A frame, uint8 (H, W, 3), as a JPEG whose longer side is at most `side` pixels."""
    image, file = Image.fromarray(frame), io.BytesIO()
    if side is not None:
        image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=None)
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def scores_of(answer: Any, *, names: Sequence[str]) -> list[float]:
    """The scores of a rubric, in the order of `names`. Raises Mistaken."""
    found = _object(answer, names)
    for name in names:
        _check_number(found[name], name, BEST)
    return [float(found[name]) for name in names]


def lead_of(answer: Any) -> list[float]:
    """By how much the video that was shown first leads, from -1 to 1, as a list of one. Raises Mistaken."""
    found = _object(answer, ("better", "confidence"))
    if found["better"] not in CHOICES:
        raise Mistaken(f"has better: {plain(repr(found['better']), 100)}, which is none of {', '.join(CHOICES)}")
    _check_number(found["confidence"], "confidence", 1)
    sign = {"first": 1, "second": -1, "tie": 0}[found["better"]]
    return [float(sign * found["confidence"])]


def yes_of(answer: Any) -> float:
    """P(yes) / (P(yes) + P(no)) at the first token of an answer, over all ways to write either.

    Raises Mistaken where neither is among the likely tokens, RewardError where the endpoint gives no probabilities.
    """
    choice = first_choice(answer)
    tokens = _first_tokens(choice.get("logprobs"))
    if not tokens:
        raise RewardError("the endpoint answers without logprobs: with mode rubric it needs none")
    found: dict[str, list[float]] = {"yes": [], "no": []}
    for token, logprob in tokens:
        if (word := token.strip(SPACES).casefold()) in found:
            found[word].append(logprob)
    top = max([*found["yes"], *found["no"]], default=-math.inf)
    if top == -math.inf:
        likely = ", ".join(repr(token) for token, _ in tokens[:5])
        raise Mistaken(f"begins neither with yes nor with no, but with one of {plain(likely, 200)}")
    yes, no = (sum(math.exp(logprob - top) for logprob in found[word]) for word in ("yes", "no"))
    return yes / (yes + no)


def _first_tokens(logprobs: Any) -> list[tuple[str, float]]:
    """The likely first tokens with their log-probabilities; empty where an answer has none."""
    try:
        entries = logprobs["content"][0]["top_logprobs"]
        found = [(entry["token"], entry["logprob"]) for entry in entries]
    except (LookupError, TypeError):
        return []
    for token, logprob in found:
        if not isinstance(token, str) or type(logprob) not in (int, float) or not logprob <= 1e-3:
            raise Mistaken(f"has no log-probability {plain(repr(logprob), 100)}")
    return found


def _object(answer: Any, names: Sequence[str]) -> dict[str, Any]:
    """The JSON object, with exactly these keys, that an answer's text is. Raises Mistaken."""
    text = text_of(answer)
    try:
        pairs = json.loads(text, object_pairs_hook=list)
        found = dict(pairs) if isinstance(pairs, list) and all(isinstance(p, tuple) for p in pairs) else None
    except (ValueError, RecursionError):
        found = None
    if found is None or len(pairs) != len(names) or found.keys() != set(names):
        raise Mistaken(f"is not a JSON object with the keys {', '.join(names)}: {plain(text, 200)}")
    return found


def _check_number(value: Any, name: str, most: float) -> None:
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise Mistaken(f"has {name}: {plain(repr(value), 100)}, which is no number from 0 to {most}")


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _structured(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request that ask for a JSON object. Bounds are not in the schema: not every server takes them."""
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}
    return {"max_tokens": 1024, "response_format": form}

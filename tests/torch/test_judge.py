"""The reward `judge`: what it asks, how answers are read, and what the cache answers."""

import itertools
import json
import math
import re
from dataclasses import replace

import judge_server
import numpy as np
import pytest
from judge_server import TOKENS, completion, serving

from actors.rewards import View
from actors.rewards.endpoint import Endpoint, Mistaken
from actors.rewards.judge import CRITERIA, Judge, jpeg, lead_of, scores_of, uniform, yes_of
from raysearch.config.binding import bind
from raysearch.errors import ConfigError, RewardError

CAPTION = "a red circle moving left"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")


def view(*greys, prompt=CAPTION, size=(8, 16)):
    """A video whose frames are all of one grey each."""
    frames = np.stack([np.full((*size, 3), grey, np.uint8) for grey in greys])
    return View(prompt, 0.0, frames=frames, fps=4)


def judging(server, **arguments):
    """A judge of a server that waits for nothing."""
    made = Judge(url=server.url, model="m", **arguments)
    made.endpoint = Endpoint(server.url, wait=lambda _: None, attempts=arguments.get("attempts", 6))
    return made


def shares(found):
    return np.asarray(found.scores)


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_a_rubric_is_scored():
    with serving() as server:
        found = judging(server)([view(51, 51), view(204)])
    assert np.allclose(shares(found), [[2.0] * 3, [8.0] * 3], atol=0.05)
    assert found.tokens == [TOKENS, TOKENS]


def test_the_request_of_a_rubric():
    criteria = {"likeness": "it shows {prompt}", "light": "it is bright"}
    with serving() as server:
        made = judging(server, criteria=criteria, frames=3, body={"seed": 5, "temperature": None})
        assert made.components == ("likeness", "light")
        made([view(0, 50, 100, 150, 200)])
    (body,) = server.bodies
    (message,) = body.pop("messages")
    *images, times, text = message["content"]
    assert [judge_server.frames(part)[0].mean().round() for part in images] == [0, 100, 200]
    assert times["text"].endswith("They are at 0.00, 0.50, 1.00 seconds.")
    assert f"- likeness: it shows {CAPTION}\n- light: it is bright\n" in text["text"]
    form = body.pop("response_format")["json_schema"]
    assert form["strict"] and form["schema"]["required"] == ["likeness", "light"]
    assert form["schema"]["properties"]["likeness"] == {"type": "number", "description": f"it shows {CAPTION}"}
    assert body == {"model": "m", "max_tokens": 1024, "seed": 5} and message["role"] == "user"


def test_frames_as_one_video():
    with serving() as server:
        found = judging(server, send="video", frames=2)([view(50, 100, 150)])
    first, *others = judge_server.parts(server.bodies[0])
    assert re.fullmatch(r"data:video/jpeg;base64,[^,]+,[^,]+", first["video_url"]["url"])
    assert [frame.mean().round() for frame in judge_server.frames(first)] == [50, 150]
    assert {part["type"] for part in others} == {"text"} and np.allclose(shares(found), 1000 / 255, atol=0.05)


def test_frames_at_equal_distances():
    assert uniform(17, 8) == [0, 2, 5, 7, 9, 11, 14, 16]
    assert uniform(3, 8) == [0, 1, 2] and uniform(9, 1) == [0] and uniform(8, 8) == list(range(8))


@pytest.mark.parametrize(
    ("side", "size"), [(None, (30, 50)), (50, (30, 50)), (64, (30, 50)), (25, (15, 25)), (10, (6, 10))]
)
def test_frames_are_shrunk_and_never_enlarged(side, size):
    rng = np.random.default_rng(0)
    (found,) = judge_server.frames(image(jpeg(rng.integers(0, 256, (30, 50, 3), np.uint8), 90, side)))
    assert found.shape == (*size, 3)


def image(file):
    url = "data:image/jpeg;base64," + judge_server.base64.b64encode(file).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def test_quality_is_that_of_the_jpegs():
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    errors = [
        np.abs(judge_server.frames(image(jpeg(frame, q, None)))[0].astype(float) - frame).mean() for q in (95, 50, 5)
    ]
    assert errors[0] < errors[1] < errors[2]


# -- yes or no ---------------------------------------------------------------------------------------------------------


def test_questions_are_answered_yes_or_no():
    questions = {"shown": 'Is this "{prompt}"?', "bright": "Is it bright?"}
    with serving() as server:
        made = judging(server, mode="yes", questions=questions)
        found = made([view(51), view(204)])
    assert made.components == ("shown", "bright")
    assert np.allclose(shares(found), [[0.2] * 2, [0.8] * 2], atol=0.005) and found.tokens == [2 * TOKENS] * 2
    asked = [judge_server.parts(body)[-1]["text"] for body in server.bodies]
    assert asked == [f'Is this "{CAPTION}"?', "Is it bright?"] * 2
    for body in server.bodies:
        assert [body[k] for k in ("max_tokens", "logprobs", "top_logprobs", "temperature")] == [1, True, 20, 0]
        assert "response_format" not in body


@pytest.mark.parametrize(("a", "b"), [(-0.1, -2.5), (-3.0, -0.05), (-1.0, -1.0), (-900.0, -901.0)])
def test_the_probability_by_hand(a, b):
    assert yes_of(completion("", {"Yes": a, "No": b})) == pytest.approx(1 / (1 + math.exp(b - a)), rel=1e-12)
    assert yes_of(completion("", {"No": b, "Yes": a})) == pytest.approx(1 / (1 + math.exp(b - a)), rel=1e-12)


def test_all_ways_to_write_yes_count():
    said = {"Yes": 0.3, " yes": 0.1, "YES": 0.05, "▁yes": 0.05, "No": 0.2, "\nno": 0.1, "Ġno": 0.05, "Yesterday": 0.1}
    found = yes_of(completion("", {token: math.log(p) for token, p in said.items()}))
    assert found == pytest.approx(0.5 / 0.85)


def test_only_one_of_both_among_the_likely_tokens():
    assert yes_of(completion("", {"Yes": -0.1, "Well": -3.0, "No": -math.inf})) == 1.0
    assert yes_of(completion("", {"no": -0.1})) == 0.0


@pytest.mark.parametrize("logprobs", [{"Well": -0.1, "nope": -1.0}, {"No": -math.inf}, {"Yes": math.nan}, {"Yes": 2.0}])
def test_neither_yes_nor_no(logprobs):
    with pytest.raises(Mistaken):
        yes_of(completion("", logprobs))


@pytest.mark.parametrize("logprobs", [None, {"content": []}, {"content": None}, {"content": [{"top_logprobs": []}]}])
def test_an_endpoint_without_logprobs_is_told_at_once(logprobs):
    answer = completion("Yes")
    answer["choices"][0]["logprobs"] = logprobs
    told = pytest.raises(RewardError, match="answers without logprobs: with mode rubric it needs none")
    with serving(answer=lambda body: answer) as server, told:
        judging(server, mode="yes")([view(1)])
    assert len(server.bodies) == 1


# -- answers that are none ---------------------------------------------------------------------------------------------


WRONG = {
    "no JSON": "alignment 5",
    "a list": "[5]",
    "empty": "{}",
    "a fence": '```json\n{"a": 5, "b": 5}\n```',
    "one is missing": '{"a": 5}',
    "one more": '{"a": 5, "b": 5, "c": 5}',
    "twice": '{"a": 5, "b": 5, "a": 6}',
    "too good": '{"a": 10.1, "b": 5}',
    "too bad": '{"a": -1, "b": 5}',
    "a text": '{"a": "5", "b": 5}',
    "true": '{"a": true, "b": 5}',
    "null": '{"a": null, "b": 5}',
    "NaN": '{"a": NaN, "b": 5}',
    "infinite": '{"a": Infinity, "b": 5}',
    "huge": '{"a": 1' + "0" * 400 + ', "b": 5}',
    "deep": "[" * 100_000,
    "pairs": '[["a", 5], ["b", 5]]',
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_answer_of_the_wrong_form_is_asked_again(kind):
    wrong = json.dumps(completion(WRONG[kind])).encode()
    right = completion('{"b": 7, "a": 0.5}')
    with serving(answer=lambda body: right, faults=[wrong]) as server:
        found = judging(server, criteria={"a": "x", "b": "y"})([view(1)])
    assert shares(found).tolist() == [[0.5, 7.0]] and found.tokens == [2 * TOKENS]


@pytest.mark.parametrize("kind", WRONG)
def test_an_answer_of_the_wrong_form_is_an_error_in_the_end(kind):
    wrong = json.dumps(completion(WRONG[kind])).encode()
    with serving(faults=itertools.repeat(wrong)) as server:
        with pytest.raises(RewardError, match="in 3 attempts, in the last of which the answer") as raised:
            judging(server, criteria={"a": "x", "b": "y"}, attempts=3)([view(1)])
        assert len(server.bodies) == 3 and str(raised.value).isprintable()
        with pytest.raises(RewardError):
            judging(server, criteria={"a": "x", "b": "y"}, attempts=3)([view(1)])  # nothing of it was kept
        assert len(server.bodies) == 6


def test_ends_of_the_scale_are_on_it():
    assert scores_of(completion('{"a": 0, "b": 10}'), names=("b", "a")) == [10.0, 0.0]


def test_frames_are_needed():
    made = Judge(url="http://localhost:1/v1", model="m")
    for wrong in (None, np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="needs frames"):
            made([View("a", 0.0, frames=wrong)])


# -- two videos --------------------------------------------------------------------------------------------------------


def comparing(answer, *pairs, **arguments):
    with serving(answer=answer) as server:
        return judging(server, **arguments).compare(pairs), server


def test_both_orders_are_asked():
    dark, bright = view(51, 51), view(204, 204)
    found, server = comparing(judge_server.computed, (dark, bright), (bright, dark), (dark, dark))
    assert np.allclose(found.scores, [0.2, 0.8, 0.5], atol=0.005)
    # The second pair is the first in the other order, and the third is one question. Each costs what it does alone.
    assert found.tokens == [2 * TOKENS] * 3
    shown = [
        [f.mean().round() for part in judge_server.parts(b) for f in judge_server.frames(part)] for b in server.bodies
    ]
    assert shown == [[51, 51, 204, 204], [204, 204, 51, 51], [51] * 4]
    for name, what in CRITERIA.items():
        assert f"- {name}: {what}" in judge_server.text(server.bodies[0])


@pytest.mark.parametrize("place", ["first", "second"])
@pytest.mark.parametrize("confidence", [0, 0.3, 1])
def test_a_judge_that_prefers_a_place_says_one_half(place, confidence):
    said = json.dumps({"better": place, "confidence": confidence})
    found, _ = comparing(lambda body: completion(said), (view(1), view(2)))
    assert found.scores == [0.5]


def test_the_mean_of_both_orders_by_hand():
    """First 0.8 certain of the first, which is 0.9; then, in the other order, 0.2 certain of it in the second place."""
    said = iter([{"better": "first", "confidence": 0.8}, {"better": "second", "confidence": 0.2}])
    found, _ = comparing(lambda body: completion(json.dumps(next(said))), (view(1), view(2)))
    assert found.scores == [pytest.approx((0.9 + 0.6) / 2)]


NO_COMPARISON = [
    "Image B is better, since Image A is blurred",
    '{"better": "Image B", "confidence": 1}',
    '{"better": "First", "confidence": 1}',
    '{"better": ["first"], "confidence": 1}',
    '{"better": "first", "confidence": 1.5}',
    '{"better": "first", "confidence": "high"}',
    '{"better": "first"}',
    'The answer: {"better": "second", "confidence": 1}',
]


@pytest.mark.parametrize("text", NO_COMPARISON)
def test_words_are_no_comparison(text):
    with pytest.raises(Mistaken):
        lead_of(completion(text))


@pytest.mark.parametrize(("better", "expected"), [("first", 0.7), ("second", -0.7), ("tie", 0.0)])
def test_a_comparison_by_hand(better, expected):
    assert lead_of(completion(json.dumps({"better": better, "confidence": 0.7}))) == [pytest.approx(expected)]


def test_questions_compare_too():
    found, server = comparing(judge_server.computed, (view(0), view(255)), mode="yes")
    assert np.allclose(found.scores, [0.0], atol=0.005)
    assert f'- yes: Does this video show "{CAPTION}"?' in judge_server.text(server.bodies[0])


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_what_was_answered_is_asked_nowhere_again(tmp_path):
    views = [view(51), view(204)]
    with serving() as server, serving() as other:
        first = judging(server, cache=str(tmp_path / "kept"))(views)
        again = judging(other, cache=str(tmp_path / "kept"))(views)
    assert shares(again).tolist() == shares(first).tolist() and again.tokens == first.tokens == [TOKENS, TOKENS]
    assert len(server.bodies) == 2 and other.bodies == []


def test_the_users_cache_is_the_default():
    with serving() as server:
        judging(server)([view(1)])
        judging(server)([view(1)])
        judging(server, cache=False)([view(1)])
        judging(server, cache=False)([view(1)])
    assert len(server.bodies) == 3


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:]])
def test_a_damaged_file_is_asked_again(tmp_path, damage):
    with serving() as server:
        first = judging(server, cache=str(tmp_path))([view(51)])
        (file,) = tmp_path.iterdir()
        whole = file.read_bytes()
        file.write_bytes(damage(whole))
        again = judging(server, cache=str(tmp_path))([view(51)])
    assert shares(again).tolist() == shares(first).tolist() and again.tokens == [TOKENS]
    assert file.read_bytes()[16:] == whole[16:] and len(server.bodies) == 2


def test_files_of_other_judgements_and_links_count_for_nothing(tmp_path):
    with serving() as server:
        judging(server, cache=str(tmp_path))([view(51)])
        (one,) = tmp_path.iterdir()
        judging(server, cache=str(tmp_path))([view(204)])
        (two,) = set(tmp_path.iterdir()) - {one}
        two.write_bytes(one.read_bytes())
        assert shares(judging(server, cache=str(tmp_path))([view(204)]))[0, 0] > 7
        kept = one.rename(tmp_path.parent / "elsewhere")
        one.symlink_to(kept)
        judging(server, cache=str(tmp_path))([view(51)])
    assert len(server.bodies) == 4


def test_whatever_is_asked_is_in_the_name(tmp_path):
    base = {"cache": str(tmp_path)}
    changes = [{}, {"criteria": {"a": "x"}}, {"criteria": {"a": "y"}}, {"mode": "yes"}, {"frames": 1}, {"quality": 50}]
    changes += [{"side": 4}, {"send": "video"}, {"body": {"top_p": 0.5}}]
    with serving() as server:
        for change in changes:
            judging(server, **base, **change)([view(51, 60)])
            judging(server, **base, **change)([view(51, 60)])
        judging(server, **base)([view(51, 61)])
        judging(server, **base)([replace(view(51, 60), prompt="another")])
        judging(server, **base)([replace(view(51, 60), fps=8)])
    assert len(server.bodies) == len(changes) + 3 == len(list(tmp_path.iterdir()))


def test_a_full_disk_costs_only_the_cache(tmp_path, monkeypatch):
    with serving() as server:
        made = judging(server, cache=str(tmp_path / "kept"))
        (tmp_path / "kept").rmdir()
        found = [shares(made([view(51)])).tolist() for _ in range(2)]
    assert found[0] == found[1] and len(server.bodies) == 2


# -- arguments ---------------------------------------------------------------------------------------------------------


GIVEN = {"url": "http://localhost:8000/v1", "model": "m"}
SECRET = "sk-proj-Z9aZ9aZ9aZ9aZ9aZ9aZ9a"
MISTAKES = [
    (
        {"mode": "yes", "criteria": {"a": "b"}},
        "criteria: {'a': 'b'} is not allowed; it must be left out with mode 'yes'",
    ),
    ({"questions": {"a": "b"}}, "questions: {'a': 'b'} is not allowed; it must be left out with mode 'rubric'"),
    ({"criteria": {}}, "criteria: {} is not allowed; it must be a mapping of one or more names"),
    ({"criteria": {"a b": "c"}}, "criteria: 'a b' is not allowed; it must be a mapping whose names are of letters"),
    ({"mode": "yes", "questions": {"a": " "}}, "questions.a: ' ' is not allowed; it must be a text"),
    ({"key": SECRET}, "key: the value, which is not shown, is not allowed"),
    ({"url": f"http://u:{SECRET}@x/v1"}, "url: the value, which is not shown, is not allowed"),
    ({"frames": 0}, "frames: 0 is not allowed; it must be at least 1"),
    ({"quality": 101}, "quality: 101 is not allowed; it must be at most 100"),
    ({"timeout": 0.0}, "timeout: 0.0 is not allowed; it must be above 0"),
    ({"mode": "both"}, "mode: 'both' is not allowed"),
]


@pytest.mark.parametrize(("given", "said"), MISTAKES)
def test_a_mistake_is_found_before_anything_is_loaded(given, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as raised:
        Judge.named(**bind(Judge, GIVEN | given, "r"))
    assert SECRET not in str(raised.value)


def test_components_are_those_of_the_arguments():
    for given in ({}, {"mode": "yes"}, {"criteria": {"b": "x", "a": "y"}}, {"mode": "yes", "questions": {"q": "?"}}):
        arguments = bind(Judge, GIVEN | given, "r")
        assert Judge.named(**arguments) == Judge(**arguments).components
    assert Judge.named(**bind(Judge, GIVEN, "r")) == Judge.components == ("alignment", "quality", "motion")


def test_a_variable_that_is_not_set_is_found_when_a_scorer_starts(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match="key: the environment variable JUDGE_KEY is not set where this scorer runs"):
        Judge(**GIVEN, key="JUDGE_KEY")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cache: .* it must be true, false, or a folder that can be written"):
        Judge(**GIVEN, cache=str(tmp_path / "file"))

"""From candidates to requests: what a replica is told of a recipe, and by which names it finds its inputs.

This is the one place in the engine that asks where in a long video a candidate stands to tell a replica about it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from raysearch.config.media import unchanged
from raysearch.engine.protocol import (
    Compare,
    Denoise,
    Encode,
    File,
    Finish,
    Look,
    Outputs,
    QueuePart,
    Start,
    Text,
    What,
    Whole,
)
from raysearch.recipe import long_video
from raysearch.recipe.candidate import Candidate, Prompt, Sampler
from raysearch.recipe.origins import Renoise, layout
from raysearch.recipe.reward import Pair, Question, Reward, met


def picture(prompt: Prompt, s: Sampler) -> File | None:
    """The first frame of a prompt, of the sampler's size."""
    return None if prompt.image is None else File("image", prompt.image, (s.num_frames, s.height, s.width))


def pictures(prompt: Prompt, s: Sampler) -> tuple[tuple[str, File], ...]:
    """The frames that a prompt gives, of the sampler's size, by the arguments of a pipeline that take them."""
    size = (s.num_frames, s.height, s.width)
    given = {"image": prompt.image, "last_image": prompt.last}
    return tuple((name, File("image", r, size)) for name, r in given.items() if r is not None)


def conditions(prompt: Prompt, s: Sampler) -> list[What]:
    """All that encoders make of a prompt for its videos, but for the frames that a chunk goes on from."""
    captions = prompt.text, *prompt.later
    if s.piped:
        return [Whole(c, s, pictures(prompt, s)) for c in captions]
    first = picture(prompt, s)
    texts = [*captions, *([s.negative_prompt] if s.guided else [])]
    return [*(Text(t, s.max_sequence_length) for t in texts), *([first] if first else [])]


def encode(what: What) -> Encode:
    """The request for a condition, with the bytes of its file."""
    if isinstance(what, Whole):
        read = ((name, replace(f, data=unchanged(f.recording))) for name, f in what.pictures)
        return Encode(replace(what, pictures=tuple(read)))
    return Encode(replace(what, data=unchanged(what.recording)) if isinstance(what, File) else what)


def leg(x: Candidate, base: int | None, velocity: bool) -> Denoise:
    """The leg to `x` from the step `base` of its trajectory, or from its origin where `base` is None."""
    captions, o, start = long_video.captions(x), x.origin, None
    if base is None:
        from_step = o.parent.step if o.parent else 0
        if o.parent and isinstance(o.how, Renoise) and long_video.is_queue(o.parent):
            from_step = x.sampler.num_steps  # the level of the queue's latest clean frames
        start = Start(o.how, o.key, from_step, long_video.carries(x))
    return Denoise(
        sampler=x.sampler,
        lineage=o.lineage,
        step=o.step if base is None else base,
        until=x.step,
        velocity=velocity,
        start=start,
        queue=QueuePart(x.part, captions) if captions else None,
    )


def look(x: Question, reward: Reward, *, preview: bool = False) -> tuple[Look | Compare, dict[str, Candidate]]:
    """The look at `x` for a reward, and the finished parts that are read besides, by their names.

    With `preview` a reply about one candidate whose frames were decoded shows them.
    """
    if isinstance(x, Pair):
        sigmas = x.first.sigma, x.second.sigma
        return Compare(reward.keys, (x.first.prompt.text,), sigmas, tags(x.first, [reward])), {}
    earlier = {"before": long_video.before(x), "opening": long_video.opening(x) if reward.earlier else None}
    also = {name: c for name, c in earlier.items() if c is not None}
    request = Look(
        rewards=tuple(dict.fromkeys(reward.keys)),
        captions=(long_video.caption(x),),
        links=(long_video.link(x),),
        obstacles=layout(reward.obstacles),
        sigma=x.sigma,
        earlier={name: c.id for name, c in also.items()},
        tags=tags(x, [reward]),
        preview=preview and reward.decodes,
    )
    return request, also


def tags(x: Candidate, rewards: Sequence[Reward]) -> Mapping[str, str | None]:
    """What is known of the prompt of `x` besides, if one of the rewards reads it."""
    return x.prompt.tags if any(r.tags for r in rewards) else {}


def finish(x: Candidate, rewards: Sequence[Reward], outputs: Outputs, kept: Sequence[Candidate]) -> Finish:
    """The finish of the finished `x`, with the latents `kept` on its way in a file."""
    return Finish(
        rewards=tuple(dict.fromkeys(k for r in rewards for k in r.keys)),
        captions=tuple(x.prompt.caption(i) for i in range(long_video.chunk(x) + 1)),
        links=long_video.links(x),
        obstacles=layout(met(rewards)),
        outputs=outputs,
        kept=tuple((c.step, c.sigma) for c in kept),
        tags=tags(x, rewards),
    )

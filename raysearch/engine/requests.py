"""From candidates to requests: what a replica is told of a recipe, and by which names it finds its inputs.

This is the one place in the engine that asks where in a long video a candidate stands to tell a replica about it.
"""

from collections.abc import Sequence

from raysearch.engine.protocol import Denoise, Finish, Look, Outputs, QueuePart, Start
from raysearch.recipe import long_video
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.origins import Renoise, layout
from raysearch.recipe.reward import Reward, met


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


def look(x: Candidate, reward: Reward) -> tuple[Look, dict[str, Candidate]]:
    """The look at `x` for a reward, and the finished parts that are read besides, by their names."""
    earlier = {"before": long_video.before(x), "opening": long_video.opening(x) if reward.earlier else None}
    also = {name: c for name, c in earlier.items() if c is not None}
    request = Look(
        rewards=(reward.key,),
        captions=(long_video.caption(x),),
        links=(long_video.link(x),),
        obstacles=layout(reward.obstacles),
        sigma=x.sigma,
        earlier={name: c.id for name, c in also.items()},
    )
    return request, also


def finish(x: Candidate, rewards: Sequence[Reward], outputs: Outputs, kept: Sequence[Candidate]) -> Finish:
    """The finish of the finished `x`, with the latents `kept` on its way in a file."""
    return Finish(
        rewards=tuple(r.key for r in rewards),
        captions=tuple(x.prompt.caption(i) for i in range(long_video.chunk(x) + 1)),
        links=long_video.links(x),
        obstacles=layout(met(rewards)),
        outputs=outputs,
        kept=tuple((c.step, c.sigma) for c in kept),
    )

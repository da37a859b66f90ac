"""Videos that are longer than the model's own clips: chunk by chunk, or through a queue of frames. Pure numbers.

Either is a chain of *parts*: the first is an ordinary clip, and each later part goes on from the finished part before
it. A part is a chunk, or a slide of the queue by some iterations. The functions at the end say where in such a video a
candidate stands.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raysearch.recipe.origins import Extend, Slide

if TYPE_CHECKING:
    from raysearch.recipe.candidate import Candidate, Sampler


@dataclass(frozen=True)
class Fifo:
    """FIFO-Diffusion (Kim et al. 2024, arXiv 2405.11473): a queue of latent frames, one for each solver step.

    An iteration denoises every queue frame by one step. The queue is cut into `partitions`, which go through the model
    one after the other, each with as many frames before it as fill up a clip (lookahead denoising). A search may choose
    the noise that enters every `stride` iterations.
    """

    partitions: int = 4
    stride: int = 1


@dataclass(frozen=True)
class Long:
    """How long videos are, and how they are made.

    A video has `chunks`, and each chunk continues the one before it: its first `prefix` latent frames are the last
    clean ones of the chunk before, or with `anew` they are encoded from that chunk's last decoded frames. With `fifo`
    the same number of frames come out of a queue.
    """

    chunks: int = 1
    prefix: int = 1
    anew: bool = True
    fifo: Fifo | None = None

    def course(self, levels: tuple[float, ...], clip: int) -> "Course":
        """The course for a solver's noise levels, (num_steps + 1,), and the latent frames of an ordinary clip."""
        if self.fifo is None:
            return Course(self.chunks, self.prefix, self.anew)
        queue = Queue(levels, self.fifo.partitions, self.fifo.stride, clip, self.prefix, self.chunks)
        return Course(1 + queue.slides + queue.drains, self.prefix, False, queue)


@dataclass(frozen=True)
class Link:
    """How a chunk goes on from the one before it: with `prefix` latent frames of it, or with `anew` encoded from it."""

    prefix: int
    anew: bool


@dataclass(frozen=True)
class Window:
    """Latent frames that go through the model together: from `first` to before `last`, under one chunk's `caption`.

    The frames from `new` on are denoised; those before are there to be looked at.
    """

    first: int
    new: int
    last: int
    caption: int


@dataclass(frozen=True)
class Queue:
    """The timetable of a queue: when each latent frame of the video enters, and when it is clean.

    The first `clip` frames are clean from the start. Frame a enters after a - clip iterations and is clean `num_steps`
    iterations later. The queue's parts are slides of `stride` iterations, before each of which a search may choose
    noise, until the video's last frame has entered. Then the queue runs empty, in parts that each end with a chunk.
    """

    levels: tuple[float, ...]  # from noise to clean, num_steps + 1
    partitions: int
    stride: int
    clip: int
    prefix: int
    chunks: int

    @property
    def num_steps(self) -> int:
        """The solver steps of a frame, which is also the length of the queue."""
        return len(self.levels) - 1

    @property
    def frames(self) -> int:
        """The latent frames of the video: as many as chunk by chunk."""
        return self.clip + (self.chunks - 1) * self.chunk

    @property
    def chunk(self) -> int:
        """The latent frames that a chunk adds."""
        return self.clip - self.prefix

    @property
    def slides(self) -> int:
        """The number of parts that begin with a choice of noise."""
        return -(-(self.frames - self.clip) // self.stride)

    @property
    def drains(self) -> int:
        """The number of parts in which the queue runs empty."""
        return max(-(-(self._last - self.slides * self.stride) // self.chunk), 0)

    @property
    def _last(self) -> int:
        """The iterations until all frames of the video are clean."""
        return self.frames - self.clip + self.num_steps - 1

    def ends(self, part: int) -> int:
        """The iterations until a part is finished; part 0 is the clip."""
        if part <= self.slides:
            return min(part * self.stride, self._last)
        return self._last - (self.slides + self.drains - part) * self.chunk

    def begins(self, part: int) -> int:
        """The iterations before a part."""
        return self.ends(part - 1)

    def iterations(self, part: int) -> int:
        """The iterations of a part."""
        return self.ends(part) - self.begins(part)

    def kept(self, part: int) -> bool:
        """True if this part's state keeps every frame dequeued since the last kept part.

        A part is kept when a whole chunk has left the queue during it, and the last part is kept.
        """
        before, after = ((i - self.num_steps + 1) // self.chunk for i in (self.begins(part), self.ends(part)))
        return after > before or part == self.slides + self.drains

    def clean(self, i: int) -> int:
        """The number of clean frames after i iterations."""
        return min(max(self.clip + i - self.num_steps + 1, self.clip), self.frames)

    def entered(self, i: int) -> int:
        """The number of frames that are clean or in the queue before iteration i."""
        return min(self.clip + i + 1, self.frames)

    def done(self, frame: int, i: int) -> int:
        """The solver steps that a frame has behind it after i iterations."""
        return min(max(i - frame + self.clip, 0), self.num_steps) if frame >= self.clip else self.num_steps

    def caption(self, frame: int) -> int:
        """The chunk that a frame belongs to, as if the video were made chunk by chunk."""
        return 0 if frame < self.clip else 1 + (frame - self.clip) // self.chunk

    def windows(self, i: int) -> list[Window]:
        """The windows of iteration i, the queue's tail first. Each is `clip` frames long."""
        size, found = self.num_steps // self.partitions, []
        for tail in range(self.clip + i + 1, self.clip + i + 1 - self.num_steps, -size):
            new, last = max(tail - size, self.clean(i)), min(tail, self.frames)
            if new < last:
                found.append(Window(last - self.clip, new, last, self.caption(last - 1)))
        return found

    def evaluations(self, part: int, start: int, stop: int) -> int:
        """Evaluations of the model under one text by a part's iterations from `start` to `stop`."""
        return sum(len(self.windows(self.begins(part) + i)) for i in range(start, stop))


@dataclass(frozen=True)
class Course:
    """How a long video of one model and one sampler is made: its number of parts, and how a part goes on."""

    parts: int = 1
    prefix: int = 1
    anew: bool = True
    queue: Queue | None = None

    @property
    def choices(self) -> int:
        """The last part whose noise a search can choose."""
        return self.parts - 1 if self.queue is None else self.queue.slides

    def after(self, part: int, num_steps: int) -> int:
        """Evaluations of the model under one text by all parts after `part`; a clip takes `num_steps`."""
        if self.queue is None:
            return max(self.parts - 1 - part, 0) * num_steps
        q = self.queue
        return sum(q.evaluations(p, 0, q.iterations(p)) for p in range(part + 1, self.parts))


ALONE = Course()  # a video of one clip


# -- where a candidate stands ----------------------------------------------------------------------------------------


def is_queue(c: "Candidate") -> bool:
    """True if `c` is a queue of frames, and not a clip."""
    return c.sampler.queue is not None


def before(c: "Candidate") -> "Candidate | None":
    """The finished part that `c` continues; None in the first part."""
    return c.link.parent if c.link else None


def parts(c: "Candidate") -> "list[Candidate]":
    """The finished parts before `c`, the first one first, and `c` itself."""
    return [c, *_back(c)][::-1]


def opening(c: "Candidate") -> "Candidate | None":
    """The finished first part; None in the first part itself."""
    return parts(c)[0] if c.link else None


def kept(c: "Candidate") -> bool:
    """True if the state of this part keeps every frame that left the queue since the last kept part."""
    return c.sampler.queue is None or c.sampler.queue.kept(c.part)


def shows(c: "Candidate") -> bool:
    """True if this part is one of those whose states together hold the video's frames."""
    q = c.sampler.queue
    return kept(c) and (q is None or q.clean(_iteration(c)) > q.clip)


def unseen(c: "Candidate") -> "list[Candidate]":
    """The part before `c`, and those before that one, the latest first, without the last one that shows."""
    found: list[Candidate] = []
    for part in _back(c):
        if found and shows(part):
            break
        found.append(part)
    return found


def caption(c: "Candidate") -> str:
    """The caption of its chunk."""
    return c.prompt.caption(chunk(c))


def chunk(c: "Candidate") -> int:
    """The chunk whose caption `c` goes by: in a queue its tail's chunk, or when finished its latest clean frame's.

    A clip that was made of a queue, such as an inversion, goes by the queue's chunk.
    """
    while c.sampler.queue is None:
        if c.link is None or isinstance(c.link.how, Extend):
            return c.part
        assert c.parent is not None
        c = c.parent
    q, i = c.sampler.queue, _iteration(c)
    return q.caption(q.clean(i) - 1) if c.finished else q.windows(i)[0].caption


def captions(c: "Candidate") -> tuple[int, ...]:
    """The chunks whose captions the frames go by that a part of a queue denoises; none of a clip."""
    q = c.sampler.queue
    if q is None:
        return ()
    begins = q.begins(c.part)
    return tuple(sorted({w.caption for i in range(begins, begins + c.sampler.num_steps) for w in q.windows(i)}))


def link(c: "Candidate") -> Link | None:
    """How this part goes on from the one before it, if it is a chunk."""
    how = c.link.how if c.link else None
    return Link(how.prefix, how.anew) if isinstance(how, Extend) else None


def links(c: "Candidate") -> tuple[Link | None, ...]:
    """How each chunk of a finished video goes on from the one before it; of a queue, each does with latents."""
    q = c.sampler.queue
    if q is None:
        return tuple(link(part) for part in parts(c))
    return (None, *[Link(q.prefix, anew=False)] * chunk(c))


def evaluations(sampler: "Sampler", part: int, start: int, stop: int) -> int:
    """Evaluations of the model under one text by a part's steps from `start` to `stop`."""
    return stop - start if sampler.queue is None else sampler.queue.evaluations(part, start, stop)


def carries(c: "Candidate") -> bool:
    """False if the origin of `c` slides a queue on from a kept part: what left the queue before is with that part."""
    return c.parent is None or not isinstance(c.origin.how, Slide) or not kept(c.parent)


def _back(c: "Candidate") -> "Iterator[Candidate]":
    """The part before `c`, the part before that one, and so on."""
    while (earlier := before(c)) is not None:
        yield earlier
        c = earlier


def _iteration(c: "Candidate") -> int:
    """The iterations of the queue that are done."""
    assert c.sampler.queue is not None
    return c.sampler.queue.begins(c.part) + c.step

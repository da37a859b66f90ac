"""Videos that are longer than the model's own: chunk by chunk, or through a queue of frames. Pure numbers.

Either is a chain of *parts*: the first is a clip of the model's own, and each other goes on from the one before it: a
chunk, or a slide of the queue by some iterations.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fifo:
    """FIFO-Diffusion (Kim et al. 2024, arXiv 2405.11473): a queue of latent frames, one for each solver step.

    An iteration denoises every frame by one step, `partitions` of the queue apart, each together with the frames before
    it that fill up the model's own length (lookahead denoising). A search may choose noise every `stride` iterations.
    """

    partitions: int = 4
    stride: int = 1


@dataclass(frozen=True)
class Long:
    """How long videos are, and how they are made.

    In `chunks`, each of which continues the last: `prefix` latent frames of a chunk are the clean last ones of the one
    before it, or with `anew` those encoded from its last frames. With `fifo` as many frames come out of a queue.
    """

    chunks: int = 1
    prefix: int = 1
    anew: bool = True
    fifo: Fifo | None = None

    def course(self, levels: tuple[float, ...], clip: int) -> "Course":
        """For a solver's noise levels, (num_steps + 1,), and the latent frames of the model's own videos."""
        if self.fifo is None:
            return Course(self.chunks, self.prefix, self.anew)
        queue = Queue(levels, self.fifo.partitions, self.fifo.stride, clip, self.prefix, self.chunks)
        return Course(1 + queue.slides + queue.drains, self.prefix, False, queue)


@dataclass(frozen=True)
class Window:
    """The latent frames from `first` to `last` go through the model together; those from `new` on are denoised."""

    first: int
    new: int
    last: int
    caption: int


@dataclass(frozen=True)
class Queue:
    """Frame a of a video enters after `a - clip` iterations and is clean `num_steps` later; those of `clip` begin so.

    Its parts are slides of `stride` iterations, before each of which a search may choose noise, until the video's last
    frame has entered; then the queue runs empty, in parts that each end with a chunk.
    """

    levels: tuple[float, ...]  # from noise to clean, num_steps + 1
    partitions: int
    stride: int
    clip: int
    prefix: int
    chunks: int

    @property
    def num_steps(self) -> int:
        return len(self.levels) - 1

    @property
    def frames(self) -> int:
        """Of the video: as many as chunk by chunk."""
        return self.clip + (self.chunks - 1) * self.chunk

    @property
    def chunk(self) -> int:
        """The frames that a chunk adds."""
        return self.clip - self.prefix

    @property
    def slides(self) -> int:
        """The parts that begin with a choice."""
        return -(-(self.frames - self.clip) // self.stride)

    @property
    def drains(self) -> int:
        """The parts after them."""
        return max(-(-(self._last - self.slides * self.stride) // self.chunk), 0)

    @property
    def _last(self) -> int:
        """The iterations until all frames are clean."""
        return self.frames - self.clip + self.num_steps - 1

    def ends(self, part: int) -> int:
        """The iterations until a part is finished; parts count from the clip's, 0."""
        if part <= self.slides:
            return min(part * self.stride, self._last)
        return self._last - (self.slides + self.drains - part) * self.chunk

    def begins(self, part: int) -> int:
        return self.ends(part - 1)

    def iterations(self, part: int) -> int:
        return self.ends(part) - self.begins(part)

    def kept(self, part: int) -> bool:
        """Whether a part holds all that came out since the last one that does: whenever a chunk has, and the last."""
        before, after = ((i - self.num_steps + 1) // self.chunk for i in (self.begins(part), self.ends(part)))
        return after > before or part == self.slides + self.drains

    def clean(self, i: int) -> int:
        """How many of the video's frames are, after i iterations."""
        return min(max(self.clip + i - self.num_steps + 1, self.clip), self.frames)

    def entered(self, i: int) -> int:
        """How many are clean or in the queue, before iteration i."""
        return min(self.clip + i + 1, self.frames)

    def done(self, frame: int, i: int) -> int:
        """A frame's solver steps after i iterations."""
        return min(max(i - frame + self.clip, 0), self.num_steps) if frame >= self.clip else self.num_steps

    def caption(self, frame: int) -> int:
        """The chunk that a frame would be of, chunk by chunk."""
        return 0 if frame < self.clip else 1 + (frame - self.clip) // self.chunk

    def windows(self, i: int) -> list[Window]:
        """Of iteration i, the one with the queue's tail first. All are `clip` frames long."""
        size, found = self.num_steps // self.partitions, []
        for tail in range(self.clip + i + 1, self.clip + i + 1 - self.num_steps, -size):
            new, last = max(tail - size, self.clean(i)), min(tail, self.frames)
            if new < last:
                found.append(Window(last - self.clip, new, last, self.caption(last - 1)))
        return found

    def evaluations(self, part: int, start: int, stop: int) -> int:
        """Of the model under one text, by a slide's iterations from `start` to `stop`."""
        return sum(len(self.windows(self.begins(part) + i)) for i in range(start, stop))


@dataclass(frozen=True)
class Course:
    """How a long video of a model and a sampler goes: its parts, and what makes them."""

    parts: int = 1
    prefix: int = 1
    anew: bool = True
    queue: Queue | None = None

    @property
    def choices(self) -> int:
        """The last part whose noise is a choice."""
        return self.parts - 1 if self.queue is None else self.queue.slides

    def after(self, part: int, num_steps: int) -> int:
        """The evaluations of all parts after one, with a clip's number of steps."""
        if self.queue is None:
            return max(self.parts - 1 - part, 0) * num_steps
        q = self.queue
        return sum(q.evaluations(p, 0, q.iterations(p)) for p in range(part + 1, self.parts))


ALONE = Course()

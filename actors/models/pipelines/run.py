"""One leg of an unmodified diffusers pipeline, as a coroutine that stops at each forward of its denoising nets.

A pipeline's `__call__` does four things that matter here: it encodes the prompt, prepares latents, calls its denoising
nets, and lets its schedulers step. A `Run` lets the pipeline do its own loop from the beginning and answers these
calls. Before the step at which the candidate stands, a forward is answered with zeros and a scheduler's step with its
own sample; the step right before the candidate's gets what the schedulers once returned. From there on the pipeline is
run for real. So the loop's index, its timesteps and what it keeps in local variables are the true ones, whatever the
pipeline does with them.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch.utils._pytree import tree_map

from actors.models.pipelines.coroutine import Coroutine
from actors.models.pipelines.estimate import x0_estimate

Tree: TypeAlias = Any  # tensors in tuples, lists, dicts and diffusers' outputs
Encoded: TypeAlias = dict[str, list[Tree]]  # what encoders answered before the first forward, in order, by their name


@dataclass(frozen=True)
class Forward:
    """A call of a denoising net, by the name of the part, which waits for its output."""

    part: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Point:
    """All that a run needs to go on at `step`, in tensors.

    `start` are the returns of `prepare_latents`, in order. `results` are the returns of the schedulers' steps that led
    here, and `states` what the schedulers have changed in themselves, each in order of first use; None if they begin
    here. `generator` is the state of the random generator. `shapes` are those of the outputs of one step's forwards.
    `outputs` are the guided outputs at `step` that the schedulers are about to be given, and `estimates` what the
    schedulers would return if they returned x0 predictions; None without a look at `step`.
    """

    step: int
    start: tuple[Tree, ...]
    results: tuple[Tree, ...]
    states: tuple[dict[str, Any], ...] | None
    generator: torch.Tensor
    shapes: tuple[Tree, ...]
    outputs: tuple[torch.Tensor, ...] | None = None
    estimates: tuple[Tree, ...] | None = None

    def ended(self, step: int) -> "Point":
        """The end of a pipeline with so many steps whose schedulers' last results are this point's x0 predictions."""
        assert self.estimates is not None
        return replace(self, step=step, results=self.estimates, outputs=None, estimates=None)


@dataclass(frozen=True)
class Blank:
    """The shape and dtype of a tensor, in place of one."""

    shape: torch.Size
    dtype: torch.dtype

    def zeros(self, device: torch.device) -> torch.Tensor:
        """Zeros that take no memory."""
        return torch.zeros((), dtype=self.dtype, device=device).expand(self.shape)


class Run:
    """One leg of a pipeline, from the step of `base`, or from the beginning, to step `until`.

    `call` are the arguments of the pipeline's call. With `estimate` the nets are evaluated at `until`, too. `encoded`
    are the answers of an encoder; without them the pipeline's own encoders are called.
    """

    def __init__(
        self,
        pipeline: "Callable[[Run], Any]",
        call: dict[str, Any],
        *,
        until: int,
        generator: torch.Generator,
        encoded: Encoded | None = None,
        base: Point | None = None,
        estimate: bool = False,
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.until, self.estimate, self.base = until, estimate, base
        self.enter = 0 if base is None else base.step
        self.generator, self.encoded = generator, encoded
        self.recorded: Encoded = {}
        self._nested = self._begun = False
        self.step = 0
        self._asked: dict[str, int] = {}
        self._stepped = False  # a scheduler has stepped since the last forward
        self._schedulers: list[tuple[Any, dict[str, Any]]] = []
        self._start: list[Tree] = []
        self._forwards: list[Tree] = []  # shapes of the outputs in this step
        self._shapes: list[Tree] = [] if base is None else list(base.shapes)
        self._results: list[Tree] = []
        self._outputs: list[torch.Tensor] = []
        self._estimates: list[Tree] = []
        self._calls = 0  # of schedulers in this step
        self._pipeline = Coroutine(lambda: pipeline(self)(**call, generator=generator))
        self.output: Any = None
        self.waiting: Forward | None = None
        self._switch(None)

    def __deepcopy__(self, memo: Any) -> "Run":
        return self  # a pipeline may copy its scheduler, which knows the run

    # -- from outside ----------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True if step `until` is reached and nothing waits."""
        return self.waiting is None

    @property
    def place(self) -> int:
        """The place of the waiting forward among those of its step."""
        return len(self._forwards)

    def answer(self, output: Tree) -> None:
        """Give the waiting forward its output, and go on to the next forward or to the end of the leg."""
        last = self.step >= self.until - 1  # no earlier step's shapes are kept
        self._forwards.append(tree_map(_blank, output) if last else None)
        self._switch(output)

    def point(self) -> Point:
        """Where a finished leg ended. Raises ValueError if the pipeline ended before step `until`."""
        if self.step < self.until:
            raise ValueError(f"the pipeline ended after {self.step} steps, and not after {self.until}")
        base = self.base
        moved = self.until > self.enter
        results = tuple(self._results) if moved or base is None else base.results
        looked = bool(self._outputs)
        return Point(
            self.until,
            tuple(self._start),
            results,
            self._states if moved or base is None else base.states,
            self._random,
            tuple(self._shapes),
            tuple(self._outputs) if looked else None,
            tuple(self._estimates) if looked else None,
        )

    def abandon(self) -> None:
        """End the pipeline's call where it stands."""
        self._pipeline.abandon()

    def _switch(self, value: Any) -> None:
        found = self._pipeline.resume(value)
        if isinstance(found, Forward):
            self.waiting = found
            return
        self.waiting = None
        if self._pipeline.done:
            self.output = found
            self._close()
        if not self._outputs:
            self._freeze()
        self.abandon()

    # -- from inside the pipeline ------------------------------------------------------------------------------------

    def forward(self, part: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tree:
        """The output of a denoising net, for which the run stops unless the candidate is past this step."""
        self._begin()
        if self.step > self.until or (self.step == self.until and not self.estimate):
            self._pipeline.give(None)  # the leg ends here, and the pipeline is never resumed
        known = self.base is not None and self.step == self.enter and self.base.outputs is not None
        if self.step < self.enter or known:
            i = len(self._forwards)
            shape = self._shapes[min(i, len(self._shapes) - 1)]
            self._forwards.append(shape)
            return tree_map(lambda b: b.zeros(self.device) if isinstance(b, Blank) else b, shape)
        return self._pipeline.give(Forward(part, args, kwargs))

    def _begin(self) -> None:
        """A forward begins, of a new step if the schedulers have stepped."""
        self._begun = True
        if self._stepped:
            self._close()

    def _freeze(self) -> None:
        """Keep what schedulers and the generator are now, as the leg's end."""
        self._states = tuple(_copied(_changed(s, blank)) for s, blank in self._schedulers)
        self._random = self.generator.get_state()

    def _close(self) -> None:
        """The end of a step: the schedulers have stepped."""
        self._shapes = self._forwards or self._shapes
        self._forwards, self._stepped, self._calls = [], False, 0
        self.step += 1

    def prepared(self, own: Callable[[], Tree]) -> Tree:
        """The return of `prepare_latents`: that of the base if there is one, else the pipeline's own."""
        value = own()
        if self.base is not None:
            value = self.base.start[len(self._start)]
            if self.base.step == 0:
                self.generator.set_state(self.base.generator)
        self._start.append(value)
        return _copied(value)  # some pipelines write into their latents

    def encode(self, name: str, own: Callable[[], Tree]) -> Tree:
        """The answer of an encoder's call: the recorded one, or its own, which is recorded."""
        if self._nested or self._begun:
            return own()
        i = self._asked.get(name, 0)
        self._asked[name] = i + 1
        if self.encoded is not None:
            return self.encoded[name][i]
        self._nested = True  # of the encoders that a prompt's encoding calls only the outcome is kept
        try:
            value = own()
        finally:
            self._nested = False
        self.recorded.setdefault(name, []).append(value)
        return value

    def stepping(self, scheduler: Any, own: Callable[..., Tree], bound: inspect.BoundArguments) -> Tree:
        """The return of a scheduler's step."""
        if not any(s is scheduler for s, _ in self._schedulers):
            self._schedulers.append((scheduler, _snapshot(scheduler)))
        j, self._calls, self._stepped = self._calls, self._calls + 1, True
        given, base = bound.arguments, self.base
        if base is not None and self.step < self.enter:
            result = base.results[j]
            if self.step < self.enter - 1:
                return tree_map(lambda t: given["sample"] if isinstance(t, torch.Tensor) else t, result)
            index = next(i for i, (s, _) in enumerate(self._schedulers) if s is scheduler)
            # Without states the schedulers begin here, with no history but their index.
            state = {"_step_index": self.enter} if base.states is None else dict(enumerate(base.states)).get(index, {})
            for name, value in state.items():
                setattr(scheduler, name, _copied(value))
            self.generator.set_state(base.generator)
            return _copied(result)
        if base is not None and self.step == self.enter and base.outputs is not None:
            given["model_output"] = base.outputs[j]
        if self.step == self.until:
            if j == 0:
                self._freeze()
            self._outputs.append(given["model_output"])
            x0 = x0_estimate(scheduler, bound)
            result = own(*bound.args[1:], **bound.kwargs)  # for its form: the leg ends before this step
            self._estimates.append((x0.to(result[0].dtype), *result[1:]))
            return result
        if j == 0:
            self._results = []
        result = own(*bound.args[1:], **bound.kwargs)
        self._results.append(_copied(result) if self.step == self.until - 1 else result)
        return result


def _blank(value: Any) -> Any:
    return Blank(value.shape, value.dtype) if isinstance(value, torch.Tensor) else value


def _copied(tree: Tree) -> Tree:
    return tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, tree)


def _snapshot(scheduler: Any) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, list) else v for k, v in vars(scheduler).items()}


def _changed(scheduler: Any, blank: dict[str, Any]) -> dict[str, Any]:
    """The attributes that differ from a snapshot."""
    return {k: v for k, v in _snapshot(scheduler).items() if k not in blank or not _same(v, blank[k])}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a is b or (isinstance(a, int | float | str) and type(a) is type(b) and a == b)

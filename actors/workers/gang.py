"""One denoiser over several processes: rank 0 leads, the others follow each of its forwards. Plain torch.distributed.

Rank 0 is the denoiser that the fleet sees. It broadcasts what a forward needs, and every rank runs its part: of the
sequence (`context`), of the weights (`fsdp`), of guidance's two halves (`guidance`), or of the first and the last. The
others know no candidates and no solvers. A gang in which anything fails is broken as a whole: rank 0 raises
ReplicaDied, and its owner starts all ranks anew.
"""

import fcntl
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from actors.models import Condition, family
from raysearch.config.config import PoolConfig
from raysearch.errors import ReplicaDied

LOOPBACK = "127.0.0.1"
LOADING = timedelta(minutes=30)  # until all ranks have read their models
FOREVER = timedelta(days=365)  # a follower's, for the next order: a gang may be idle, and a closed connection tells
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64)


@dataclass(frozen=True)
class Place:
    """A rank's place in its gang: where rank 0 listens, how long ranks wait for another, this rank's address."""

    rank: int
    host: str
    port: int
    patience: timedelta
    here: str = LOOPBACK


def listen(host: str) -> tuple[Store, int]:
    """Rank 0's meeting point and its port, on the interface of `host` alone (by itself torch takes all of them)."""
    listener = socket.create_server((host, 0))
    port: int = listener.getsockname()[1]
    fd = listener.detach()
    return TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=LOADING, master_listen_fd=fd), port


class Gang:
    """This rank's part of a sharded transformer. Making it waits for the other ranks to make theirs."""

    def __init__(
        self, folder: str, *, dtype: str, device: str, pool: PoolConfig, place: Place, store: Store | None = None
    ) -> None:
        torch.set_num_threads(1)
        self._rank, self._device, self._context = place.rank, device, pool.context_shards
        self._guidance = pool.guidance_shards > 1
        whole = pool.shard_mode != "fsdp"  # which moves and splits a block at a time: the whole may not fit a device
        self.model = family(Path(folder)).Transformer(Path(folder), dtype=dtype, device=device if whole else "cpu")
        self.model.device = device
        _bind(place.here)
        store = store or TCPStore(place.host, place.port, timeout=LOADING)
        store.set(f"loaded {place.rank}", "")
        store.wait([f"loaded {rank}" for rank in range(pool.shards)])
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=store,
            rank=place.rank,
            world_size=pool.shards,
            timeout=place.patience,
        )
        try:
            self._orders = dist.new_group(backend="gloo", timeout=FOREVER if place.rank else place.patience)
            if not whole:
                _split_weights(self.model.model, device, pool.shards)
            if pool.context_shards > 1:
                _split_sequence(self.model.model, device, pool)
            dist.all_reduce(torch.zeros(1))  # all are ready
        except BaseException:
            self.leave()
            raise

    # -- rank 0 ----------------------------------------------------------------------------------------------------

    def velocities(
        self, latents: torch.Tensor, timesteps: torch.Tensor, texts: Sequence[torch.Tensor], first: list[Condition]
    ) -> list[torch.Tensor]:
        """Under each of the texts. Raises ReplicaDied when any rank is lost or fails."""
        try:
            self._send(latents, timesteps, texts, first)
            return self._part(latents, timesteps, texts, first)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ReplicaDied(f"a gang of {dist.get_world_size()} shards is broken: {reason}") from error

    def close(self) -> None:
        """Tell the others to stop, if they still listen."""
        try:
            dist.broadcast(torch.tensor([0, 0]), 0, group=self._orders)
        except RuntimeError:
            pass
        finally:
            self.leave()

    # -- the others ------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Run this rank's part of every forward until told to stop. Raises when rank 0 is lost."""
        try:
            while (order := self._receive()) is not None:
                self._part(*order)
        finally:
            self.leave()

    # -- all -------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        dist.destroy_process_group()

    def _part(
        self, latents: torch.Tensor, timesteps: torch.Tensor, texts: Sequence[torch.Tensor], first: list[Condition]
    ) -> list[torch.Tensor]:
        """This rank's part of the forwards; whole on rank 0 only."""
        if not self._guidance:
            return [self.model(latents, timesteps, text, first) for text in texts]
        conditional, unconditional = texts
        mine = self.model(
            latents, timesteps, conditional if self._rank < self._context else unconditional, first
        ).contiguous()
        if self._rank == self._context:  # the first of the unconditional half
            dist.send(_bytes(mine), 0)
        if self._rank != 0:
            return []
        theirs = torch.empty_like(mine)
        dist.recv(_bytes(theirs), self._context)
        return [mine, theirs]

    def _send(
        self, latents: torch.Tensor, timesteps: torch.Tensor, texts: Sequence[torch.Tensor], first: list[Condition]
    ) -> None:
        """Types and shapes, then bytes: nothing is unpickled. Each row sends two tensors of what it is given."""
        tensors = [latents, timesteps, *texts]
        for f in first:
            parts = f if isinstance(f, tuple) else () if f is None else (f,)
            tensors += [*parts, *[torch.empty(0)] * (2 - len(parts))]
        table = [[DTYPES.index(t.dtype), t.ndim, *t.shape, *(5 - t.ndim) * [0]] for t in tensors]
        dist.broadcast(torch.tensor([len(tensors), len(texts)]), 0, group=self._orders)
        dist.broadcast(torch.tensor(table), 0, group=self._orders)
        for t in tensors:
            if t.numel():
                dist.broadcast(_bytes(t.contiguous()), 0)

    def _receive(self) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[Condition]] | None:
        counts = torch.empty(2, dtype=torch.int64)
        dist.broadcast(counts, 0, group=self._orders)
        count, texts = counts.tolist()
        if not count:
            return None
        table = torch.empty(count, 7, dtype=torch.int64)
        dist.broadcast(table, 0, group=self._orders)
        tensors = []
        for code, ndim, *shape in table.tolist():
            t = torch.empty(shape[:ndim], dtype=DTYPES[code], device=self._device)
            if t.numel():
                dist.broadcast(_bytes(t), 0)
            tensors.append(t)
        latents, timesteps, *rest = tensors
        rows = zip(rest[texts::2], rest[texts + 1 :: 2], strict=True)
        return latents, timesteps, rest[:texts], [_given(*pair, latents.shape[1]) for pair in rows]


def _given(first: torch.Tensor, more: torch.Tensor, channels: int) -> Condition:
    """What a row is given, of the two tensors that were sent: clean frames have the latents' channels."""
    if not first.numel():
        return None
    return first if first.shape[1] == channels else (first, more) if more.numel() else (first,)


def _bytes(t: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor."""
    return t.view(-1).view(torch.uint8)


def _split_weights(model: torch.nn.Module, device: str, shards: int) -> None:
    """FSDP2: each rank holds its share of every block, and gathers one block at a time."""
    model.requires_grad_(False)  # weights of several dtypes may share a block when none is trained
    mesh = init_device_mesh(device, (shards,), mesh_dim_names=("fsdp",))
    blocks: Sequence[str] = model._no_split_modules  # type: ignore[assignment]
    for module in list(model.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _split_sequence(model: Any, device: str, pool: PoolConfig) -> None:
    """Ulysses: each rank holds its share of the tokens, and within attention its share of the heads."""
    diffusers.utils.logging.set_verbosity_error()  # it warns that this is experimental, and of scalar timesteps
    shape, names = (pool.guidance_shards, 1, pool.context_shards), ("guidance", "ring", "ulysses")
    mesh = init_device_mesh(device, shape, mesh_dim_names=names)
    config = ContextParallelConfig(ulysses_degree=pool.context_shards, mesh=mesh)
    if device == "cuda":
        model.enable_parallelism(config=config)
        return
    with patch.object(torch.accelerator, "device_count", return_value=1):  # it divides by it, and it is 0 on a CPU
        model.enable_parallelism(config=config)


def _bind(here: str) -> None:
    """Have gloo and NCCL talk over the interface of this address: by themselves they guess."""
    name = _interface(here)
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")


def _interface(address: str) -> str | None:
    siocgifaddr = 0x8915  # Linux's question for an interface's address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(s, siocgifaddr, name.encode().ljust(40, b"\0"))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None

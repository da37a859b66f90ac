"""One denoiser over several processes: rank 0 leads, the others follow each of its forwards. Plain torch.distributed.

Rank 0 is the denoiser that the fleet sees. It broadcasts the inputs of every forward, and each rank computes its share:
a share of the tokens (`context`), of the weights (`fsdp`), one half of guidance (`guidance`), or a share of the tokens
in one half of guidance (`context+guidance`). The followers know no candidates and no solvers. If any rank fails, the
whole gang is broken: rank 0 raises ReplicaDied, and the gang's owner starts all ranks anew.

Shapes: n latents of C channels, T latent frames, H x W; texts of L tokens and D numbers each.
"""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import diffusers
import psutil
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, ParallelConfig
from diffusers.hooks import apply_context_parallel
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from actors.models.condition import Condition
from actors.models.source import Source
from raysearch.config.fleet import PoolConfig
from raysearch.errors import ReplicaDied

LOOPBACK = "127.0.0.1"
LOADING = timedelta(minutes=30)  # how long ranks wait until all have read their models
FOREVER = timedelta(days=365)  # how long a follower waits for an order: a gang may be idle, and rank 0's end is noticed
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64)


@dataclass(frozen=True)
class Place:
    """A rank's place in its gang: the host and port where rank 0 listens, and the address `here` of this rank.

    `patience` is how long a rank waits for another within a forward before it takes the gang for broken.
    """

    rank: int
    host: str
    port: int
    patience: timedelta
    here: str = LOOPBACK


def listen(host: str) -> tuple[Store, int]:
    """Open the store where the ranks meet; returns the store and its port.

    Only rank 0 calls this. The port is open on the interface of `host` alone: left to itself, torch opens it on all.
    """
    listener = socket.create_server((host, 0))
    port: int = listener.getsockname()[1]
    fd = listener.detach()
    return TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=LOADING, master_listen_fd=fd), port


class Gang:
    """This rank's shard of a transformer. The constructor returns once every rank has made its own.

    `source` is the model's, `pool` says how it is sharded. Rank 0 passes the `store`
    that `listen` opened. Raises what torch.distributed raises when a rank does not come in time.
    """

    def __init__(self, source: Source, *, pool: PoolConfig, place: Place, store: Store | None = None) -> None:
        torch.set_num_threads(1)
        device = source.device
        self._rank, self._device, self._context = place.rank, device, pool.context_shards
        self._guidance = pool.guidance_shards > 1
        whole = pool.shard_mode != "fsdp"  # FSDP moves one block at a time, as the whole model may not fit a device
        first = device if whole else "cpu"
        self.model = source.family.Transformer(replace(source, device=first))
        self.model.device = device
        _use_interface_of(place.here)
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
            dist.all_reduce(torch.zeros(1))  # every rank is ready
        except BaseException:
            self.leave()
            raise

    # -- rank 0 ----------------------------------------------------------------------------------------------------

    def velocities(
        self, latents: torch.Tensor, timesteps: torch.Tensor, texts: Sequence[torch.Tensor], first: list[Condition]
    ) -> list[torch.Tensor]:
        """Velocities (n, C, T, H, W) under each of the texts, which are (n, L, D). Only rank 0 calls this.

        `latents` are (n, C, T, H, W), `timesteps` (n,); `first` has one entry a latent: what it is conditioned on.
        Raises ReplicaDied when any rank is lost or fails.
        """
        try:
            self._send(latents, timesteps, texts, first)
            return self._part(latents, timesteps, texts, first)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ReplicaDied(f"a gang of {dist.get_world_size()} shards is broken: {reason}") from error

    def close(self) -> None:
        """Tell the followers to stop, if they still listen."""
        try:
            dist.broadcast(torch.tensor([0, 0]), 0, group=self._orders)
        except RuntimeError:
            pass
        finally:
            self.leave()

    # -- followers -------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Compute this rank's share of every forward until rank 0 says to stop. Raises when rank 0 is lost."""
        try:
            while (order := self._receive()) is not None:
                self._part(*order)
        finally:
            self.leave()

    # -- every rank ------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Close this rank's connections to the others."""
        dist.destroy_process_group()

    def _part(
        self, latents: torch.Tensor, timesteps: torch.Tensor, texts: Sequence[torch.Tensor], first: list[Condition]
    ) -> list[torch.Tensor]:
        """Compute this rank's share of the forwards; only rank 0 gets the whole velocities."""
        if not self._guidance:
            return [self.model(latents, timesteps, text, first) for text in texts]
        conditional, unconditional = texts
        mine = self.model(
            latents, timesteps, conditional if self._rank < self._context else unconditional, first
        ).contiguous()
        if self._rank == self._context:  # the first rank of the unconditional half
            dist.send(_bytes(mine), 0)
        if self._rank != 0:
            return []
        theirs = torch.empty_like(mine)
        dist.recv(_bytes(theirs), self._context)
        return [mine, theirs]

    def _send(
        self, latents: torch.Tensor, timesteps: torch.Tensor, texts: Sequence[torch.Tensor], first: list[Condition]
    ) -> None:
        """Broadcast types and shapes, then bytes, so that no rank unpickles anything.

        Each latent's condition is sent as two tensors; one that is missing is sent empty.
        """
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
    """A latent's condition from the two tensors that were sent; clean first frames have the latents' channels."""
    if not first.numel():
        return None
    return first if first.shape[1] == channels else (first, more) if more.numel() else (first,)


def _bytes(t: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor as uint8 (bytes,), which any backend sends."""
    return t.view(-1).view(torch.uint8)


def _split_weights(model: torch.nn.Module, device: str, shards: int) -> None:
    """Shard by FSDP2: each rank holds its share of every block, and gathers one block at a time."""
    model.requires_grad_(False)  # FSDP allows several dtypes in one block only if none is trained
    mesh = init_device_mesh(device, (shards,), mesh_dim_names=("fsdp",))
    blocks: Sequence[str] = model._no_split_modules  # type: ignore[assignment]
    for module in list(model.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _split_sequence(model: Any, device: str, pool: PoolConfig) -> None:
    """Shard by Ulysses: each rank holds its share of the tokens and, within attention, its share of the heads.

    These are the steps of diffusers' `enable_parallelism`, which itself asks for the number of GPUs and so fails where
    there is none.
    """
    diffusers.utils.logging.set_verbosity_error()  # diffusers warns of timesteps that are not split
    shape, names = (pool.guidance_shards, 1, pool.context_shards), ("guidance", "ring", "ulysses")
    mesh = init_device_mesh(device, shape, mesh_dim_names=names)
    sequence = ContextParallelConfig(ulysses_degree=pool.context_shards, mesh=mesh)
    parallel = ParallelConfig(context_parallel_config=sequence)
    parallel.setup(dist.get_rank(), dist.get_world_size(), torch.device(device), mesh=mesh)
    for module in model.modules():
        processor: Any = getattr(module, "processor", None)
        if hasattr(processor, "_parallel_config"):
            processor._parallel_config = parallel
    apply_context_parallel(model, sequence, model._cp_plan)


def _use_interface_of(address: str) -> None:
    """Have gloo and NCCL use the network interface of this address: left to themselves, they guess."""
    name = _interface(address)
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")


def _interface(address: str) -> str | None:
    """The name of the network interface that has this IPv4 address; None if none has it."""
    ends = ((name, end) for name, found in psutil.net_if_addrs().items() for end in found)
    return next((name for name, end in ends if end.family == socket.AF_INET and end.address == address), None)

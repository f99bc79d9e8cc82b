"""Prefetching of batches by worker processes, which may die.

A step's batches are a pure function of the step, so it does not matter which worker makes them, or how often. Worker n
makes every n-th of the coming steps, at most AHEAD of them, so slow training throttles loading. Batches are taken in
step order. A worker that dies or does not answer is reported and replaced, and the new one repeats its requests.

Workers are forked from a server process that has only the libraries loaded: no threads, no model. A worker ends when
its pipe closes.
"""

import functools
import multiprocessing
import os
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from logging import getLogger
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Protocol

import torch

from tinygptv.data.batches.batching import Batch
from tinygptv.data.batches.shared_memory import Receiver, Sender
from tinygptv.errors import DataError, TinyGPTVError

logger = getLogger(__name__)

PREFETCH_STEPS = 2
"""Steps that each worker prepares ahead of the current one."""
TRIES = 3
"""Workers that may be lost on one step before loading fails."""

Request = tuple[int, int, int, int]
"""Step, rank, ranks, micro batch size: the arguments of `Batches.micro_batches`."""


class Batches(Protocol):
    """A source of a rank's share of each step."""

    @property
    def sources(self) -> list[str]:
        """The sources of its samples."""

    def micro_batches(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        """Batches of at most `micro_batch_size` samples."""


class PrefetchedBatches:
    """Batches from worker processes; `open_batches` is pickled and called in each of them.

    A worker that does not answer for `patience_seconds` counts as lost; `on_loss` receives a message for each.
    """

    def __init__(
        self,
        sources: Sequence[str],
        open_batches: Callable[[], Batches],
        workers: int,
        patience_seconds: float,
        on_loss: Callable[[str], None],
    ) -> None:
        self.sources = list(sources)
        self._patience, self._on_loss = patience_seconds, on_loss
        self._start = functools.partial(_start, open_batches)
        self._workers = [self._start() for _ in range(workers)]

    @property
    def workers(self) -> list[int]:
        """The workers' process ids."""
        return [worker.process.pid or 0 for worker in self._workers]

    def micro_batches(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        """As `Batches.micro_batches`. Raises a worker's exception, DataError if several workers in a row are lost."""
        for ahead in range(step, step + 1 + PREFETCH_STEPS * len(self._workers)):
            self._workers[ahead % len(self._workers)].ask((ahead, rank, ranks, micro_batch_size))
        place, message = step % len(self._workers), ""
        for _ in range(TRIES):
            try:
                return self._workers[place].answer((step, rank, ranks, micro_batch_size), self._patience)
            except _LostError as lost:
                message = f"loader worker {place}, process {self.workers[place]}, {lost} on batch {step + 1}"
                logger.warning("%s; a new worker repeats it", message)
                self._on_loss(message)
                self._workers[place] = self._replacement(self._workers[place])
        raise DataError(
            f"{message}, as {TRIES - 1} before it; set loader_workers: 0 in the hardware profile to see why"
        )

    def _replacement(self, lost: "_Worker") -> "_Worker":
        lost.process.kill()
        lost.process.join(timeout=1)
        worker = self._start()
        for request in lost.asked:
            worker.ask(request)
        return worker


class _LostError(Exception):
    """A lost worker; the message says how it was lost."""


@dataclass(slots=True)
class _Worker:
    process: ForkServerProcess
    connection: Connection
    receiver: Receiver
    asked: deque[Request] = field(default_factory=deque)

    def ask(self, request: Request) -> None:
        """Send a request, unless already sent. A dead worker is noticed when its answer is due."""
        if request not in self.asked:
            self.asked.append(request)
            with suppress(OSError):
                self.connection.send((request, self.receiver.released()))

    def answer(self, request: Request, patience_seconds: float) -> list[Batch]:
        """The answer to a request; answers to earlier requests are discarded, as after a roll-back."""
        while True:
            if not self.connection.poll(patience_seconds):
                raise _LostError(f"did not answer for {patience_seconds:.0f} s")
            try:
                found = self.receiver.receive()
            except (EOFError, OSError):
                self.process.join(timeout=1)
                raise _LostError(f"ended with exit code {self.process.exitcode}") from None
            if self.asked.popleft() == request:
                if isinstance(found, Exception):
                    raise found
                return found


def _start(open_batches: Callable[[], Batches]) -> _Worker:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, open_batches, dict(os.environ)), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, Receiver(ours))


def _work(connection: Connection, open_batches: Callable[[], Batches], environment: dict[str, str]) -> None:
    """Answer requests in order until the pipe closes."""
    os.environ.update(environment)  # the fork server has the environment of its own start
    torch.set_num_threads(1)
    batches: Batches | None = None
    sender = Sender(connection)
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            request, released = connection.recv()
            sender.take_back(released)
            try:
                batches = batches or open_batches()
                made = batches.micro_batches(*request)
            except TinyGPTVError as error:
                connection.send(error)
            except Exception:
                connection.send(RuntimeError(f"a loader worker failed:\n{traceback.format_exc()}"))
            else:
                sender.send(made)

"""Batches made ahead of the step, by worker processes that may die.

A step's batches are a pure function of the step, so it does not matter who makes them, or how often. Worker n makes
every n-th step of those ahead, and no more than AHEAD of them, so that a slow training holds back the loading. Answers
are taken in the order of the steps. A worker that dies or does not answer is named, a new one takes its place and makes
the same batches again.

Workers are forked from a server process that holds the libraries and nothing else: no threads, no model. A worker ends
when its pipe does.
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

AHEAD = 2
"""Steps that each worker makes ahead of the one that is taken."""
TRIES = 3
"""Workers that may be lost over one step before that is an error."""

Request = tuple[int, int, int, int]
"""Step, rank, ranks, samples at a time: what `Batches.micro_batches` takes."""


class Batches(Protocol):
    """Where a rank's share of a step comes from."""

    @property
    def sources(self) -> list[str]:
        """Where samples may come from."""

    def micro_batches(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        """Pieces of at most `micro_batch_size` samples."""


class BatchesAhead:
    """The batches that `open_batches` gives in each worker; it and what it gives must not depend on this process.

    A worker that does not answer for `patience_seconds` is lost; `on_loss` is told of every lost one.
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
        """Their process ids."""
        return [worker.process.pid or 0 for worker in self._workers]

    def micro_batches(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        """As the workers' own. Raises what was raised there, and DataError if worker after worker is lost."""
        for ahead in range(step, step + 1 + AHEAD * len(self._workers)):
            self._workers[ahead % len(self._workers)].ask((ahead, rank, ranks, micro_batch_size))
        place, told = step % len(self._workers), ""
        for _ in range(TRIES):
            try:
                return self._workers[place].answer((step, rank, ranks, micro_batch_size), self._patience)
            except _LostError as lost:
                told = f"loader worker {place}, process {self.workers[place]}, {lost} over batch {step + 1}"
                logger.warning("%s; another one makes it again", told)
                self._on_loss(told)
                self._workers[place] = self._replacement(self._workers[place])
        raise DataError(f"{told}, as {TRIES - 1} before it; set loader_workers: 0 in the hardware profile to see why")

    def _replacement(self, lost: "_Worker") -> "_Worker":
        lost.process.kill()
        lost.process.join(timeout=1)
        worker = self._start()
        for request in lost.asked:
            worker.ask(request)
        return worker


class _LostError(Exception):
    """How a worker was lost."""


@dataclass(slots=True)
class _Worker:
    process: ForkServerProcess
    connection: Connection
    receiver: Receiver
    asked: deque[Request] = field(default_factory=deque)

    def ask(self, request: Request) -> None:
        """Once is enough. One that is dead is found out when its answer is due."""
        if request not in self.asked:
            self.asked.append(request)
            with suppress(OSError):
                self.connection.send((request, self.receiver.released()))

    def answer(self, request: Request, patience_seconds: float) -> list[Batch]:
        """The answer to a request; those before it are no longer wanted, as after a roll-back."""
        while True:
            if not self.connection.poll(patience_seconds):
                raise _LostError(f"gave no answer for {patience_seconds:.0f} s")
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
    """Answer requests in their order until nobody asks any more."""
    os.environ.update(environment)  # the fork server keeps what there was when it was started
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

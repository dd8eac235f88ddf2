"""Decoding in child processes with a time limit: a file that hangs or crashes a decoder costs one child, not the run.

One thread here tends each child: it sends jobs a few ahead, waits for answers, and when the child does not answer in
time, or dies, replaces it and goes on with the jobs that were behind.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from fusecache.cache import FusecacheError, Seconds

from .config import EncoderConfig
from .worker import Done, Failure, Job, Setup

AHEAD = 4
"""Jobs that a child has in its pipe, so that it never waits for this process."""
LONG_TEXT = 8192
"""A job with more text travels alone: two full pipes would wait for each other."""
START = "from fusecache.extract.worker import main; main({})"
START_LIMIT = 300.0
"""Seconds within which a child must have built its encoders."""


@dataclass(slots=True)
class _Task:
    job: Job
    future: Future[Done] = field(default_factory=Future[Done])
    crashes: int = 0

    @property
    def short(self) -> bool:
        """Whether it fits into a pipe beside others."""
        return len(self.job.source.text) <= LONG_TEXT

    def fail(self, stage: str, reason: str) -> None:
        self.future.set_result(Done({name: Failure(stage, reason) for name in self.job.modalities}))


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    pipe: Connection[Any, Any]

    def end(self) -> int:
        """Kill the child and return its exit status."""
        self.process.kill()
        self.pipe.close()
        return self.process.wait()


class DecodePool:
    """A few child processes that decode and prepare. Children start with the first job."""

    def __init__(
        self, encoders: Mapping[str, EncoderConfig], *, workers: int, time_limit: Seconds, max_bytes: int
    ) -> None:
        self.workers = workers
        self.time_limit = time_limit
        self._setup = Setup(list(sys.path), dict(encoders), max_bytes)
        self._queue: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._children: list[_Child] = []
        self._lock = threading.Lock()
        self._closing = False
        self._broken: BaseException | None = None
        self.restarts = 0
        """Children that were replaced because they hung or died."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, job: Job) -> Future[Done]:
        """Queue a job. The future's result holds failures as values; it raises only what would fail every job."""
        task = _Task(job)
        self._queue.put(task)
        if self._broken is not None:
            self._fail((), self._broken)
        elif not self._threads:
            self._threads = [
                threading.Thread(target=self._tend, name=f"decode-{i}", daemon=True)
                for i in range(self.workers)
            ]
            for thread in self._threads:
                thread.start()
        return task.future

    def close(self) -> None:
        """End the children, whatever they are doing."""
        with self._lock:
            self._closing = True
            for child in self._children:
                child.process.kill()
        self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _tend(self) -> None:
        """Life of one thread: keep one child busy."""
        child: _Child | None = None
        ready: deque[_Task] = deque()
        sent: deque[_Task] = deque()
        try:
            while self._take(ready, len(sent)) and not self._closing:
                child = child or self._start()
                try:
                    while ready and (not sent or (ready[0].short and sent[-1].short)):
                        child.pipe.send(ready[0].job)
                        sent.append(ready.popleft())
                    if child.pipe.poll(self.time_limit):
                        answer: Done | FusecacheError = child.pipe.recv()
                        if isinstance(answer, FusecacheError):
                            raise answer
                        sent.popleft().future.set_result(answer)
                        continue
                    sent.popleft().fail("timeout", f"no result within decode_timeout={self.time_limit:g} s")
                except (EOFError, BrokenPipeError, ConnectionResetError):
                    if not self._closing:
                        self._blame(child, sent or ready)
                self._forget(child)
                child = None
                ready.extendleft(reversed(sent))
                sent.clear()
        except BaseException as error:  # noqa: BLE001  (handed to whoever waits for a result)
            self._broken = error
            self._fail((*sent, *ready), error)
        finally:
            if child is not None:
                child.end()

    def _take(self, ready: deque[_Task], sent: int) -> bool:
        """Take tasks from the queue, waiting only if there is nothing else to do; False: the pool closes."""
        while len(ready) + sent < AHEAD:
            try:
                task = self._queue.get(block=not ready and not sent)
            except queue.Empty:
                break
            if task is None:
                self._queue.put(None)  # for the other threads
                return False
            ready.append(task)
        return True

    def _blame(self, child: _Child, tasks: deque[_Task]) -> None:
        """A child died: its task is tried once more, in case the file was not to blame."""
        try:
            child.process.wait(5)
        except subprocess.TimeoutExpired:
            child.process.kill()
        status = child.process.wait()
        tasks[0].crashes += 1
        if tasks[0].crashes > 1:
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            tasks.popleft().fail("crash", f"the decoder process died twice on this file ({how})")

    def _start(self) -> _Child:
        """Start a child and wait until its encoders stand."""
        ours, theirs = Pipe()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "OMP_NUM_THREADS": "1",
        }
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", START.format(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        child = _Child(process, ours)
        with self._lock:
            self._children.append(child)
            if self._closing:
                process.kill()
        try:
            ours.send(self._setup)
            answer = ours.recv() if ours.poll(START_LIMIT) else TimeoutError("it did not start in time")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            answer = RuntimeError(f"a decoder process ended while starting (exit status {child.end()})")
        if isinstance(answer, BaseException):
            child.end()
            raise answer
        return child

    def _forget(self, child: _Child) -> None:
        child.end()
        with self._lock:
            self._children.remove(child)
            self.restarts += 1

    def _fail(self, tasks: Iterable[_Task], error: BaseException) -> None:
        """Give ``error`` to every task that nobody will do any more."""
        for task in tasks:
            task.future.set_exception(error)
        while True:
            try:
                task = self._queue.get_nowait()
            except queue.Empty:
                return
            if task is not None:
                task.future.set_exception(error)

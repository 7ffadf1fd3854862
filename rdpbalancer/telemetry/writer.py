"""Writing without waiting for whoever reads: a bounded queue, and a thread that writes what is in it.

A pipe whose reader has stopped, a terminal on hold, a journal that hangs or a disk that is full must not stop
the loop that decides about logins. A thread, because a regular file cannot be written without blocking, and
O_NONBLOCK on standard error would be set for every process that shares it.
"""

import contextlib
import os
import select
import signal
import threading
import time
from queue import Empty, SimpleQueue
from typing import Final

# What waits at most, besides what the kernel holds: about 7,000 session records, some seconds of the greatest
# rush. A reader that is behind by more has stopped.
LIMIT_BYTES: Final = 4 * 1024 * 1024
# A full disk is tried again this often.
_RETRY_S: Final = 1.0
# Without progress for this long nobody reads.
_STUCK_S: Final = 5.0


class Writer:
    """Writes lines to a descriptor, in order, each text in one piece as far as the kernel takes it.

    `owned`: the descriptor is closed in the end. `otherwise`: a descriptor to go on with if nobody can read
    the first any more (EPIPE). What is too much, or cannot be written before `close`, is lost and counted.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        owned: bool = False,
        otherwise: int | None = None,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self.descriptor = descriptor
        self._owned = owned
        self._otherwise = otherwise
        self._limit_bytes = limit_bytes
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._taken_bytes = 0  # of all that came, but for what was lost
        self._written_bytes = 0
        self._lost = 0
        self._error = ""
        self._progress_at = time.monotonic()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._changed = threading.Condition()

    # ---- whoever logs ------------------------------------------------------------------------------

    def write(self, text: str) -> int:
        """Take whole lines, to be written soon; never waits, never raises."""
        data = text.encode(errors="backslashreplace")
        with self._lock:
            waiting = self._taken_bytes - self._written_bytes
            if self._closing.is_set() or waiting + len(data) > self._limit_bytes:
                self._lost += data.count(b"\n")
                return len(text)
            if not waiting:
                self._progress_at = time.monotonic()
            self._taken_bytes += len(data)
            started = self._thread is not None or self._start()
        if started:
            self._queue.put(data)
        else:  # here and now, then, if it can be
            self._wait_writable()
            self._write(data)
        return len(text)

    def flush(self) -> None:
        """Nothing: what was taken is written as soon as it can be. See `drain`."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self.descriptor)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.descriptor

    def is_for(self, descriptor: int) -> bool:
        """Whether this writes to a descriptor that is somebody else's to close."""
        return not self._owned and self.descriptor == descriptor

    def drain(self, timeout_s: float) -> bool:
        """Wait until all is written, but not longer; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting_bytes, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Take no more; wait so long for what waits to be written, or not at all where that is in trouble.

        What cannot be written even then is lost.
        """
        if not self.trouble():
            self.drain(timeout_s)
        with self._lock:
            self._closing.set()
            thread = self._thread
        if thread is None:
            self._end()
            return
        self._queue.put(None)
        if not self._waiting_bytes:
            thread.join(timeout_s)

    # ---- how it goes -------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether it is closed and nothing is on its way any more."""
        return self._closing.is_set() and (self._thread is None or not self._thread.is_alive())

    @property
    def lost(self) -> int:
        """The lines that have been lost."""
        return self._lost

    def trouble(self) -> str:
        """Say why nothing can be written at present, or nothing."""
        if self._error:
            return self._error
        stuck_s = time.monotonic() - self._progress_at
        if self._waiting_bytes and stuck_s > _STUCK_S:
            return f"nobody has read it for {stuck_s:.0f} s"
        return ""

    @property
    def _waiting_bytes(self) -> int:
        return self._taken_bytes - self._written_bytes

    # ---- the thread --------------------------------------------------------------------------------

    def _start(self) -> bool:
        """Start the thread; not while the interpreter ends, nor where there can be no thread more."""
        thread = threading.Thread(target=self._run, name="write the log", daemon=True)
        # Signals are for the main thread. One that is kept for the program after this one (execve) would be
        # delivered here, and be lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            thread.start()
        except RuntimeError:
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._thread = thread
        return True

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._write(data)
        self._end()

    def _write(self, data: bytes) -> None:
        rest, counted = data, len(data)
        while rest:
            try:
                written = os.write(self.descriptor, rest)
            except BlockingIOError:  # somebody has set O_NONBLOCK on what we share
                self._wait_writable()
            except BrokenPipeError as error:
                if self._otherwise is not None:
                    self.descriptor, self._otherwise = self._otherwise, None
                else:
                    self._failed(error)
            except OSError as error:
                self._failed(error)
            else:
                rest = rest[written:]
                self._error = ""
                self._progress_at = time.monotonic()
            if rest and (self._closing.is_set() or self._thread is None):
                self._lose(data)
                break
        with self._changed:
            self._written_bytes += counted
            self._changed.notify_all()

    def _lose(self, data: bytes) -> None:
        with self._lock:
            self._lost += data.count(b"\n")

    def _wait_writable(self) -> None:
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        poll.poll(_RETRY_S * 1000)

    def _failed(self, error: OSError) -> None:
        self._error = error.strerror or str(error)
        self._closing.wait(_RETRY_S)

    def _end(self) -> None:
        with contextlib.suppress(Empty):
            while (data := self._queue.get_nowait()) is not None:
                self._lose(data)
        if self._owned:
            with contextlib.suppress(OSError):
                os.close(self.descriptor)

"""The client of one service. It respects limits, repeats failed requests, and keeps all answers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential

from study.errors import StudyError
from study.events.repairs import repaired
from study.models.services.answer_cache import AnswerCache
from study.models.services.credentials import Secret
from study.models.services.reply import Reply, UnexpectedAnswer
from study.models.services.request import LOGGERS, RequestFailed, http_client, png_of, read_answer, send
from study.models.services.service_spec import Remote
from study.process.interrupt import Interrupted
from study.reproducibility.hashing import digest

_POLL_SECONDS = 0.1

Question = NDArray[np.uint8] | str
"""An image, `uint8` (C, H, W), or a text for a chat service."""


class Halted(Exception):
    """A request was not sent, because another request has failed for good, or because the study was stopped."""


async def pause(seconds: float, halt: asyncio.Event) -> None:
    """Wait for `seconds`. Raises Halted as soon as `halt` is set."""
    try:
        async with asyncio.timeout(seconds):
            await halt.wait()
    except TimeoutError:
        return
    raise Halted


class Pacer:
    """A schedule in which requests are at least 1 / `rate` seconds apart."""

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate
        self._next = 0.0

    def reserve(self, now: float) -> float:
        """Reserve the next free time for a request, and return the seconds from `now` until this time."""
        turn = max(now, self._next)
        self._next = turn + self._gap
        return turn - now


class Service:
    """The client with which one process asks one service. The file `cache` keeps the service's answers.

    `sent` is the number of requests. `cached` is the number of questions whose answers were in the cache.
    """

    def __init__(self, name: str, remote: Remote, *, secret: Secret | None, cache: Path) -> None:
        """Open the cache. Raises StudyError if the cache cannot be used, or if a required credential is missing."""
        if remote.credentials is not None and secret is None:
            raise StudyError(f"{name} needs a credential", todo=f"export {remote.credentials.env}=…")
        self.sent = self.cached = 0
        self._name, self._remote, self._secret = name, remote, secret
        self._cache = AnswerCache(cache)
        self._pacer = Pacer(remote.rate)
        self._backoff = wait_exponential(multiplier=remote.backoff, max=remote.most_wait)
        self._one_call = threading.Lock()
        self._down = False
        if secret is not None:
            for logger in LOGGERS:
                logging.getLogger(logger).addFilter(secret)

    def describe(self) -> dict[str, Any]:
        """Return what a run records about the service."""
        keys = ("model", "prompt", "extra") if self._remote.api == "chat" else ("send", "field", "labels", "top")
        fields = {key: getattr(self._remote, key) for key in keys}
        return {"remote": self._remote.address, **fields, "digest": self._remote.digest}

    def ask(self, images: NDArray[np.uint8], stop: Callable[[], bool] = lambda: False) -> list[Reply]:
        """Ask about `images`, `uint8` (N, C, H, W) with one channel or three, and return the replies in their order.

        Every answer is written to the cache before it is used. If all attempts for an image fail, no further image is
        sent, and StudyError is raised. The service then counts as down. Until the service answers again, later calls
        make only one attempt for each image. If a repeated request would also fail, StudyError is raised without
        further attempts. StudyError is also raised if `most` requests were sent, or if the cache cannot be used.
        Interrupted is raised if `stop` returns true before all answers are there. Before any error is raised, the
        requests that were sent already are finished, because their answers may cost money.
        """
        return self._replies(list(images), stop)

    def ask_about(self, texts: Sequence[str], stop: Callable[[], bool] = lambda: False) -> list[Reply]:
        """Send each of `texts` to a chat service in its own request. Return values and errors are as in `ask`."""
        return self._replies(list(texts), stop)

    def _replies(self, questions: Sequence[Question], stop: Callable[[], bool]) -> list[Reply]:
        with self._one_call:
            keys = [self._key(question) for question in questions]
            by_key = dict(zip(keys, questions, strict=True))
            bodies = {key: body for key in by_key if (body := self._cache.get(key)) is not None}
            self.cached += len(bodies)
            missing = {key: question for key, question in by_key.items() if key not in bodies}
            if missing:
                new, errors, stopped = asyncio.run(self._ask_all(missing, stop))
                bodies |= new
                if errors:
                    stored = f"{len(bodies)} of {len(by_key)} answers are stored"
                    raise StudyError(f"{errors[0].what}; {stored}", todo=errors[0].todo, status=1)
                if stopped and len(bodies) < len(by_key):
                    raise Interrupted
            return [self._read(bodies[key]) for key in keys]

    async def _ask_all(
        self, missing: Mapping[str, Question], stop: Callable[[], bool]
    ) -> tuple[dict[str, str], list[StudyError], bool]:
        """Ask all questions in `missing`. Return the answers by key, the errors, and whether `stop` returned true."""
        halt, slots = asyncio.Event(), asyncio.Semaphore(self._remote.parallel)
        bodies: dict[str, str] = {}
        errors: list[StudyError] = []

        async def ask_one(client: httpx.AsyncClient, key: str, question: Question) -> None:
            async with slots:
                if halt.is_set():
                    return
                try:
                    content = question if isinstance(question, str) else png_of(question)
                    body = await self._answer(client, content, halt)
                    await asyncio.to_thread(self._cache.put, key, body)
                    bodies[key] = self._cache.get(key) or body
                except Halted:
                    return
                except StudyError as error:
                    errors.append(error)
                    halt.set()

        stopped = False
        async with http_client() as client:
            tasks = [asyncio.create_task(ask_one(client, key, one)) for key, one in missing.items()]
            running = set(tasks)
            while running:
                _, running = await asyncio.wait(running, timeout=_POLL_SECONDS)
                if not stopped and stop():
                    stopped = True
                    halt.set()
        for task in tasks:
            task.result()
        return bodies, errors, stopped

    async def _answer(self, client: httpx.AsyncClient, question: bytes | str, halt: asyncio.Event) -> str:
        """Send one question, repeatedly until an attempt succeeds, and return the answer.

        Raises StudyError if all attempts fail or no further attempt is allowed, and Halted if `halt` is set while it
        waits for an attempt.
        """

        async def attempt() -> str:
            await pause(self._pacer.reserve(time.monotonic()), halt)
            was_down = self._down
            if self._remote.most is not None:
                await asyncio.to_thread(self._count, self._remote.most)
            self.sent += 1
            try:
                body = await send(client, self._name, self._remote, question, self._secret)
            except RequestFailed as failed:
                failed.final = was_down and self._down
                raise
            # If a request began before the service counted as down, its answer does not show that the service is up
            # again.
            self._down = self._down and not was_down
            return body

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(RequestFailed),
            stop=lambda state: stop_after_attempt(self._remote.attempts)(state) or _failure(state).final,
            wait=self._wait,
            sleep=lambda seconds: pause(seconds, halt),
            before_sleep=self._report,
            retry_error_callback=self._give_up,
        )
        return await retrying(attempt)

    def _count(self, most: int) -> None:
        """Count a request on disk before it is sent. Raises StudyError if the count has already reached `most`."""
        if not self._cache.count_request(most):
            raise StudyError(
                f"`most` is {most:,}, so this run folder may send no further request to {self._name}",
                todo="raise `most` of this service or judge, and launch again: the study stays the same, and answers "
                "are kept",
                status=1,
            )

    def _wait(self, state: RetryCallState) -> float:
        """Return the seconds until the next attempt: exponential with jitter, or longer if the service asks for it."""
        usual = self._backoff(state) * random.uniform(0.75, 1)
        return max(usual, min(_failure(state).wait, self._remote.most_wait))

    def _report(self, state: RetryCallState) -> None:
        repaired("service", f"{self._name}: a request is sent again: {_failure(state).reason}")

    def _give_up(self, state: RetryCallState) -> str:
        self._down = True
        attempts = f"{state.attempt_number} attempts" if state.attempt_number > 1 else "1 attempt"
        raise StudyError(
            f"{self._name} at {self._remote.address} failed after {attempts}: {_failure(state).reason}",
            todo="check that the service is up and that its answers fit the spec, and launch again; or raise attempts, "
            "timeout or most_wait",
            status=1,
        )

    def _read(self, body: str) -> Reply:
        try:
            return read_answer(body, self._remote)
        except UnexpectedAnswer as error:
            raise StudyError(
                f"a stored answer of {self._name} cannot be read: {error}",
                todo="check that `url`, `labels` and `scores` fit the answers of the service",
                status=1,
            ) from None

    def _key(self, question: Question) -> str:
        """Return the cache key of a question: a hash of everything that determines the answer.

        For an image, the key hashes the pixels and not the PNG, because the PNG depends on the version of zlib.
        """
        remote = self._remote
        headers = {name.lower(): value for name, value in remote.headers.items()}
        asked = (remote.url, remote.model, remote.extra, headers)
        if isinstance(question, str):
            return digest("text", question, *asked)
        image, pixels = question, hashlib.sha256(np.ascontiguousarray(question).tobytes()).hexdigest()
        if remote.api == "chat":
            return digest("chat", image.shape, pixels, remote.prompt, *asked)
        return digest("question", image.shape, pixels, remote.url, remote.send, remote.field, remote.extra, headers)


def _failure(state: RetryCallState) -> RequestFailed:
    assert state.outcome is not None, "an attempt has ended"
    error = state.outcome.exception()
    assert isinstance(error, RequestFailed), "only failed requests are retried"
    return error

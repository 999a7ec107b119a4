"""Sample in several processes, each with a sampler and a GPU of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from attnpo.errors import AttnPOError
from attnpo.sampling.sampler import Sample, Sampler

_END_SECONDS = 30.0  # for a process to give its GPU back before it is killed


class ProcessSampler(Sampler):
    """A sampler whose responses come from several processes. They are the samples of one process with the same seeds:
    each `unit` is sampled whole by one of them.

    The processes start with the first call of `sample` and end with `close`, or when this process dies.

    Args:
        make: makes the sampler of a process; it is pickled.
        unit: of those samplers.
        devices: for each process the GPUs that it sees, as `CUDA_VISIBLE_DEVICES` names them; None: all of them.
    """

    def __init__(self, make: Callable[[], Sampler], unit: int, devices: Sequence[str | None]) -> None:
        self._make, self.unit, self._devices = make, unit, devices
        self._workers: list[tuple[Any, Connection]] = []

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        k: int = 1,
        temperature: float,
        top_p: float = 1.0,
        max_new_tokens: int,
        seeds: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[int, int, Sample]]:
        """See `Sampler.sample`. The units are dealt in turn, and responses come as the processes have them.

        Raises:
            AttnPOError: what a process raises; or one of them has died.
        """
        turns = range(len(prompts) * k)
        units = [turns[start : start + self.unit] for start in range(0, len(turns), self.unit)]
        self._start(min(len(units), len(self._devices)))
        waiting: dict[Connection, list[int]] = {}
        for i, (_, connection) in enumerate(self._workers[: len(units)]):
            mine = [turn for unit in units[i :: len(self._workers)] for turn in unit]
            how = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "options": options}
            some = None if seeds is None else [seeds[turn] for turn in mine]
            connection.send(([list(prompts[turn // k]) for turn in mine], {**how, "seeds": some}))
            waiting[connection] = mine
        finished = False
        try:
            while waiting:
                for connection in set(waiting) & set(wait(list(waiting))):
                    message = self._received(connection)
                    if message is None:
                        del waiting[connection]
                        continue
                    place, one = message
                    turn = waiting[connection][place]
                    yield turn // k, turn % k, one
            finished = True
        finally:
            if not finished:  # an error, or nobody wants the rest: what is under way cannot be called back
                self.close()

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        for devices in self._devices[len(self._workers) : number]:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, self._make, devices), daemon=False)
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    def _received(self, connection: Connection) -> tuple[int, Sample] | None:
        process = next(process for process, theirs in self._workers if theirs is connection)
        try:
            kind, content = connection.recv()
        except (EOFError, ConnectionResetError) as error:
            process.join()
            code = process.exitcode
            raise AttnPOError(
                f"a sampling process ended with exit code {code}, by lack of memory perhaps; what was sampled is kept: "
                "run the same command again, with a smaller batch_size if need be"
            ) from error
        if kind == "refused":
            raise AttnPOError(content)
        if kind == "failed":
            raise RuntimeError(f"a sampling process failed:\n{content}")
        return content

    def close(self) -> None:
        """End the processes, which give back their GPUs."""
        for _, connection in self._workers:
            connection.close()
        for process, _ in self._workers:
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._workers = []


def _work(connection: Connection, make: Callable[[], Sampler], devices: str | None) -> None:
    """A process: samples what it is sent, until the other end is closed."""
    if devices is not None:  # before anything asks for a GPU
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    threading.Thread(target=_die_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sampler: Sampler | None = None
    try:
        # The parent has gone, or has closed its end since it wants no more.
        with suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
            while True:
                prompts, how = connection.recv()
                try:
                    sampler = sampler or make()
                    for place, _, one in sampler.sample(prompts, **how):
                        connection.send(("sample", (place, one)))
                    connection.send(("sample", None))
                except AttnPOError as error:
                    connection.send(("refused", str(error)))
                except OSError:
                    raise
                except Exception:
                    connection.send(("failed", traceback.format_exc()))
    finally:
        if sampler is not None:
            sampler.close()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()  # by the driver's management library: it starts no CUDA in this process
    return (named or [str(i) for i in range(count)])[:count]

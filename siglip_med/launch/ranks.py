"""The processes of one job (torchrun, srun): the first decides, the others are told, and none outlives another long.

Lightning's own launcher needs none of this: it gives its processes the command line of the first.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from siglip_med.core.errors import EXIT_STATUS, UserError
from siglip_med.core.signals import Stopped

PATIENCE = 300.0
"""Seconds that a process waits for the first one to start and to decide."""
BEAT = 3.0
"""Seconds between two signs of life."""
MISSED = 10
"""So many beats of one's own without a sign of another: it has died. Beats and no clock: Ctrl-Z stops both."""
LAST = 30.0
"""Seconds that the process that keeps what they share waits for the others, at the end."""
_GRACE = 5.0


@dataclass
class Ranks:
    """All processes of a job, seen from one of them.

    Attributes:
        rank: of this process, 0 to size - 1.
        size: how many there are.
        store: what they share; None where there is one process alone, or the first has started the others.
        keeps: whether it ends with this process.
    """

    rank: int = 0
    size: int = 1
    store: Any = None
    keeps: bool = False
    _over: threading.Event = field(default_factory=threading.Event)

    def told(self, key: str, decide: Callable[[], Any]) -> Any:
        """What the first process decides, in every process.

        Args:
            key: of the question.
            decide: gives a value that JSON can hold; it is called in the first process alone.

        Raises:
            UserError: the first process's own, or it gave no answer.
            SystemExit: in the others, where the first one stopped with a `UserError`, which it prints.
        """
        if self.store is None:
            return decide()
        if self.rank == 0:
            answer: dict[str, Any] = {}  # what the others get where it stops
            try:
                answer["value"] = decide()
            finally:
                self.store.set(key, json.dumps(answer))
            return answer["value"]
        end = time.monotonic() + PATIENCE
        while not self.store.check([key]):  # a wait inside the store would hold back signals
            if time.monotonic() > end:
                raise UserError(f"process {self.rank} was not told by process 0 what to do in {PATIENCE:.0f} s")
            time.sleep(0.05)
        answer = json.loads(self.store.get(key))
        if "value" not in answer:
            raise SystemExit(EXIT_STATUS)
        return answer["value"]

    def watch(self) -> None:
        """Gives signs of life until this process ends, and ends it when another one has died."""
        last: dict[int, tuple[bytes, int]] = {}
        beat = 0
        while not self._over.wait(BEAT):
            beat += 1
            try:
                self.store.set(f"alive/{self.rank}", str(beat))
                others = [rank for rank in range(self.size) if rank != self.rank and self._has(f"alive/{rank}")]
                for rank in others:
                    sign = self.store.get(f"alive/{rank}")
                    before, since = last.get(rank, (b"", 0))
                    last[rank] = (sign, beat if sign != before else since)
                    if sign != b"done" and beat - last[rank][1] >= MISSED:
                        self.store.set("ended", json.dumps([rank, 1]))
                if self._has("ended"):
                    self._leave(*json.loads(self.store.get("ended")))
            except RuntimeError:  # the store is gone, and with it the process that kept it
                if last.get(0, (b"", 0))[0] != b"done":
                    self._leave(0, 1)
                return

    def _has(self, key: str) -> bool:
        return bool(self.store.check([key]))

    def _leave(self, rank: int, status: int) -> None:
        """Ends this process because that one has; as a signal does, where one ended it."""
        if status > 128:
            os.kill(os.getpid(), status - 128)
        if self._over.wait(_GRACE):
            return  # it has noticed by itself
        if status <= 128:
            print(
                f"error: process {rank} of this run has ended, and process {self.rank} ends too; to resume: the same "
                "command with resume=auto",
                file=sys.stderr,
                flush=True,
            )
        with suppress(RuntimeError):  # the store is gone
            self.store.set(f"alive/{self.rank}", "done")
        os._exit(status)

    def close(self, status: int) -> None:
        """This process is done: others go on where it ended well, and end where it did not."""
        self._over.set()
        try:
            self.store.set(f"alive/{self.rank}", "done")
            if status:
                self.store.set("ended", json.dumps([self.rank, status]))
            end = time.monotonic() + LAST
            while self.keeps and time.monotonic() < end:  # the others are told and finish first
                others = [f"alive/{rank}" for rank in range(1, self.size)]
                if all(self._has(other) and self.store.get(other) == b"done" for other in others):
                    break
                time.sleep(0.05)
        except RuntimeError:
            return  # the store is gone: nobody is left to be told


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes of this job, watched until the block ends.

    Raises:
        UserError: the first process cannot be reached.
    """
    environment = _environment()
    if environment is None:
        yield Ranks()
        return
    ranks = Ranks(environment.global_rank(), environment.world_size())
    ranks.store = _store(ranks, environment.main_address, environment.main_port)
    ranks.store.set(f"alive/{ranks.rank}", "0")
    threading.Thread(target=ranks.watch, daemon=True, name="ranks").start()
    status = 1
    try:
        yield ranks
        status = 0
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        raise
    except Stopped as stopped:
        status = stopped.exit_status
        raise
    finally:
        ranks.close(status)


def _environment() -> Any:
    """Lightning's view of the launcher that started several processes; None where none did."""
    if not any(int(os.environ.get(name) or 1) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS")):
        return None
    from lightning.fabric.plugins import environments

    kinds = (environments.TorchElasticEnvironment, environments.SLURMEnvironment)  # type: ignore[attr-defined]
    found = next((kind() for kind in kinds if kind.detect()), None)
    return None if found is None or found.world_size() == 1 else found


def _store(ranks: Ranks, address: str, port: int) -> Any:
    """The store that PyTorch's process group will use too: kept by torchrun, or by the first process."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    mine = ranks.keeps = ranks.rank == 0 and not kept
    end = time.monotonic() + PATIENCE
    while True:
        try:
            few = timedelta(seconds=10)  # inside, signals wait
            store = TCPStore(
                address, port, ranks.size, is_master=mine, timeout=few, wait_for_workers=False, multi_tenant=True
            )
            break
        except RuntimeError as error:
            if mine or time.monotonic() > end:
                raise UserError(
                    f"process {ranks.rank} of {ranks.size} cannot reach process 0 at {address}:{port} "
                    f"(MASTER_ADDR, MASTER_PORT): {str(error).splitlines()[0]}"
                ) from error
    return PrefixStore(f"siglip_med/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)

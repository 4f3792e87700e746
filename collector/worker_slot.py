"""Worker slots: which folders, which part of each limit, and which hourly duties a worker has."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """One worker's number, of how many. By default it is the only one, and everything is its own."""

    worker: int = 0
    workers: int = 1

    @property
    def folder(self) -> str:
        """The name of the worker's folders, in `journal/` and `staging/`."""
        return str(self.worker)

    @property
    def is_first(self) -> bool:
        """Whether it does what is to be done once, not once by each."""
        return self.worker == 0

    def adopts(self, folder: str) -> bool:
        """Whether what is in a folder of that name is this worker's to take over when it starts.

        Its own is, because whoever had it before is dead. Those that are no present worker's (there were more of them
        yesterday) are the first one's.
        """
        return folder == self.folder or (self.is_first and folder not in map(str, range(self.workers)))

    def of(self, total: int) -> int:
        """Its part of a limit that all workers together must keep."""
        return total // self.workers


ONLY_WORKER = WorkerSlot()

"""Worker slots: the folders, the share of each limit and the hourly duties of a worker."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """A worker's number, and the number of workers. By default there is one worker, with every folder and limit."""

    worker: int = 0
    workers: int = 1

    @property
    def folder(self) -> str:
        """The name of the worker's folders, in `journal/` and `staging/`."""
        return str(self.worker)

    @property
    def is_first(self) -> bool:
        """Whether it does the duties that only one worker may do."""
        return self.worker == 0

    def adopts(self, folder: str) -> bool:
        """Whether this worker takes over a folder of that name, with its contents, when it starts.

        It takes over its own folder, whose previous owner is dead. The first worker also takes over folders that belong
        to no current worker, left from a time with more workers.
        """
        return folder == self.folder or (self.is_first and folder not in map(str, range(self.workers)))

    def of(self, total: int) -> int:
        """Its share of a limit that holds for all workers together."""
        return total // self.workers


ONLY_WORKER = WorkerSlot()

"""The checks: each turns the configuration and the facts about the machine into findings, without any I/O."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from rich.filesize import decimal

from collector.cli.doctor.disk import DiskSpeed
from collector.cli.doctor.machine import ENOUGH_ROWS, Machine, Port, UnixSocket
from collector.clock import SECONDS_PER_DAY
from collector.config import Config
from collector.daemon.public_sockets import hints
from collector.daemon.resources import ACCEPTED_TOGETHER, BACKLOG, MAX_CONNECTIONS, OTHER_DESCRIPTORS
from collector.daemon.serve import processes
from collector.daemon.worker import MIN_FREE_INODES
from collector.journal.journal import MEMORY_SEGMENTS
from collector.wording import count

# Besides its events, an idle worker takes 70 MB, and 10,000 connections take another 80 MB.
WORKER_BYTES = 150_000_000
BYTES_PER_EVENT = 75  # of Parquet, used when data_dir has too few rows to tell (bench/README.md, "Peak")
LONG_ENOUGH_DAYS = 14
MOST_DAYS = 1e6  # shown; a tiny rate would give infinity
SLOW_COMMIT_S = 0.1
CLOCK_BACK_S = 120.0

_GONE_WITH_POWER = {"tmpfs", "ramfs"}
_GONE_WITH_CONTAINER = {"overlay", "aufs"}
_OF_A_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs"}


class Grade(Enum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warning"
    FAIL = "fails"  # the collector would not serve


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was found, and for a problem also what would be right and what to do."""

    name: str
    grade: Grade
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """The input of the checks."""

    config: Config
    machine: Machine
    disk: DiskSpeed
    rate: float  # expected events per second, for the disk space check


Check = Callable[[Examined], Iterator[Finding]]


def data_dir(found: Examined) -> Iterator[Finding]:
    """Whether data_dir exists or can be created, and is writable."""
    folder, user, name = found.machine.folder, found.machine.user, "data_dir"
    if folder.error:
        yield Finding(name, Grade.FAIL, f"{folder.path} cannot be read: {folder.error}")
    elif not folder.is_folder:
        yield Finding(name, Grade.FAIL, f"{folder.path} is not a folder; set storage.data_dir to one")
    elif not folder.writable:
        owned = f"user {user} cannot write to {folder.path}, which belongs to user {folder.owner}"
        yield Finding(name, Grade.FAIL, f"{owned}; run as that user, or chown the folder")
    elif not folder.is_data_dir:
        wanted = found.config.storage.data_dir
        yield Finding(name, Grade.OK, f"{wanted} does not exist yet; `serve` creates it in {folder.path}")
    else:
        yield Finding(name, Grade.OK, f"{folder.path} is writable and belongs to user {folder.owner}")
    if user == 0 and folder.owner > 0:
        message = (
            f"checked as root, but data_dir belongs to user {folder.owner}: run the doctor as that user too "
            "(docs/systemd.md)"
        )
        yield Finding("user", Grade.WARN, message)


def file_system(found: Examined) -> Iterator[Finding]:
    """Whether the type of file system keeps files across a reboot, and locks and syncs reliably."""
    kind, name = found.machine.folder.file_system, "file system"
    if kind in _GONE_WITH_POWER:
        message = f"{kind} is in memory: a reboot loses every event, whatever storage.durability is; use a disk"
        yield Finding(name, Grade.WARN, message)
    elif kind in _GONE_WITH_CONTAINER:
        message = f"{kind} is a container's own layer and is deleted with it; mount a volume for data_dir"
        yield Finding(name, Grade.WARN, message)
    elif kind in _OF_A_NETWORK or kind.startswith("nfs"):
        message = f"{kind} is a network file system: locks and syncs may not hold, and it may hang; use a local disk"
        yield Finding(name, Grade.WARN, message)
    else:
        yield Finding(name, Grade.OK, kind or "type unknown")


def space(found: Examined) -> Iterator[Finding]:
    """Whether there are enough free bytes and inodes, and how many days the bytes last."""
    folder, storage, name = found.machine.folder, found.config.storage, "disk space"
    room = folder.free_bytes - storage.min_free_bytes
    event_bytes = found.machine.kept.bytes_per_event or BYTES_PER_EVENT
    days = min(max(room, 0) / (found.rate * event_bytes * SECONDS_PER_DAY), MOST_DAYS)
    free = f"{decimal(folder.free_bytes)} free"
    reserved = decimal(storage.min_free_bytes)
    from_parts = found.machine.kept.bytes_per_event is not None
    source = "newest parts" if from_parts else f"benchmarks: the newest parts have fewer than {ENOUGH_ROWS:,} rows"
    lasts = (
        f"lasts {count(round(days), 'day', ',')} at {found.rate:g} events a second and "
        f"{event_bytes:.0f} bytes of Parquet an event (as in the {source})"
    )
    if room <= 0:
        message = f"{free}, less than storage.min_free_bytes ({reserved}): every event is refused; free up space"
        yield Finding(name, Grade.FAIL, message)
    elif room < 2 * storage.segment_max_bytes:
        message = f"{free}, less than storage.min_free_bytes ({reserved}) plus two segments; free up space"
        yield Finding(name, Grade.WARN, message)
    elif days < LONG_ENOUGH_DAYS and not 0 < storage.retention_days <= days:
        yield Finding(name, Grade.WARN, f"{free}, {lasts}; set storage.retention_days below that, or add space")
    else:
        yield Finding(name, Grade.OK, f"{free}, {lasts}")
    if folder.free_inodes is not None and folder.free_inodes < MIN_FREE_INODES:
        message = f"{folder.free_inodes} free; below {MIN_FREE_INODES} every event is refused; delete files"
        yield Finding("inodes", Grade.FAIL, message)
    elif folder.free_inodes is not None and folder.free_inodes < 100_000:
        message = f"{folder.free_inodes} free; each part and each folder takes one; delete files"
        yield Finding("inodes", Grade.WARN, message)


def syncing(found: Examined) -> Iterator[Finding]:
    """Whether the disk can do what the collector needs, and how fast it syncs."""
    disk, name = found.disk, "disk"
    if disk.error:
        yield Finding(name, Grade.FAIL, f"data_dir's disk cannot do what the collector needs: {disk.error}")
        return
    median, p99 = disk.commit_at(0.5), disk.commit_at(0.99)
    message = (
        f"syncs a commit of 16 KiB in {milliseconds(median)} (median of {len(disk.commit_s)}) and {milliseconds(p99)} "
        f"(p99); writes {decimal(int(disk.bytes_per_s))} a second sequentially"
    )
    if p99 > SLOW_COMMIT_S and found.config.storage.durability == "fsync":
        slow = f"slow: every response waits for a commit, and p99 should be below {milliseconds(SLOW_COMMIT_S)}"
        yield Finding(name, Grade.WARN, f"{message}; {slow}; use a faster disk")
    else:
        yield Finding(name, Grade.OK, message)


def descriptors(found: Examined) -> Iterator[Finding]:
    """Whether a worker may open enough descriptors for all its connections."""
    most, name = found.machine.max_descriptors, "file limit"
    wanted = MAX_CONNECTIONS + OTHER_DESCRIPTORS
    if 0 <= most < wanted:  # -1: no limit
        room = max(most // 2, most - OTHER_DESCRIPTORS)
        message = f"{most} descriptors allow {room} connections per worker, not {MAX_CONNECTIONS}"
        grade = Grade.FAIL if room < ACCEPTED_TOGETHER else Grade.WARN
        yield Finding(name, grade, f"{message}; raise LimitNOFILE (systemd) or `ulimit -Hn` to {wanted}")
    else:
        yield Finding(name, Grade.OK, f"enough for {MAX_CONNECTIONS} connections per worker")


def backlog(found: Examined) -> Iterator[Finding]:
    """Whether the kernel lets enough connections wait to be accepted."""
    most = found.machine.backlog
    if most is not None and most < BACKLOG:
        message = (
            f"net.core.somaxconn is {most}: in a burst only {most} connections can wait, and the rest are dropped; "
            f"raise it to {BACKLOG} (sysctl)"
        )
        yield Finding("backlog", Grade.WARN, message)


def memory(found: Examined) -> Iterator[Finding]:
    """Whether the workers and the segments they hold in memory fit."""
    has, workers = found.machine.memory_bytes, processes(found.config.server.workers)
    takes = workers * (WORKER_BYTES + MEMORY_SEGMENTS * found.config.storage.segment_max_bytes)
    if has is None:
        return
    message = f"{count(workers, 'worker')} may take {decimal(takes)} of {decimal(has)}"
    if takes > has:
        message += ": the kernel may kill them; lower storage.segment_max_bytes or server.workers"
    yield Finding("memory", Grade.OK if takes <= has else Grade.WARN, message)


def cores(found: Examined) -> Iterator[Finding]:
    """Whether there is a core for each worker."""
    workers, has = processes(found.config.server.workers), found.machine.cores
    message = f"{count(workers, 'worker')} on {count(has, 'core')}"
    if workers > has:
        message += f': more workers than cores gain nothing; server.workers = "auto" starts {has}'
        yield Finding("CPU", Grade.WARN, message)
    else:
        yield Finding("CPU", Grade.OK, message)


def clock(found: Examined) -> Iterator[Finding]:
    """Whether the clock is right, as far as the machine can tell."""
    machine, name = found.machine, "clock"
    newest = machine.kept.newest_s
    if newest is not None and newest > machine.now_s + CLOCK_BACK_S:
        ahead = f"the newest part was written {newest - machine.now_s:,.0f} s in the future"
        yield Finding(name, Grade.WARN, f"{ahead}: the clock is wrong now, or was then; check it with `timedatectl`")
    elif machine.clock_synchronised:
        yield Finding(name, Grade.OK, "synchronised")
    elif machine.clock_synchronised is None:
        message = "the kernel does not say whether it is synchronised; check it with `timedatectl`"
        yield Finding(name, Grade.WARN, message)
    else:
        uses = "received_at and the days of parts depend on it"
        if found.config.storage.retention_days:
            uses += ", and storage.retention_days deletes days by it"
        yield Finding(name, Grade.WARN, f"not synchronised, but {uses}; run `timedatectl set-ntp true`")


def ports(found: Examined) -> Iterator[Finding]:
    """Whether each port is free, or in use by a collector or by systemd on its behalf."""
    for port in found.machine.ports:
        yield _port(port, found.machine)
    if found.machine.unix_socket is not None:
        yield _unix_socket(found.machine.unix_socket, found.machine)
    server, admin = found.config.server, found.config.admin
    every_address = {"0.0.0.0", "::"} & {server.host, admin.host}
    if server.port == admin.port != 0 and (server.host == admin.host or every_address):
        message = f"server.port and admin.port are both {server.port}; change one of them"
        yield Finding("ports", Grade.FAIL, message)


def _port(port: Port, machine: Machine) -> Finding:
    name = f"{port.name} port"
    setting = f"{port.name}.port"
    if port.error is None:
        return Finding(name, Grade.OK, f"{port.address} is free")
    if not port.is_taken:
        message = f"cannot listen on {port.address}: {port.error}; change {port.name}.host or {setting}"
        return Finding(name, Grade.FAIL, message)
    if port.held_by_systemd:
        return Finding(name, Grade.OK, f"systemd listens on {port.address} and passes it to its service")
    if machine.serving_pid is not None or machine.serving_version is not None:
        return Finding(name, Grade.OK, f"{port.address} is in use, and a collector is running")
    message = f"{port.address} is in use, but not by a collector with this configuration; free it or change {setting}"
    if port.held_by_systemd is None and machine.user != 0:
        message += " (unless systemd holds it for the collector, which only root can see)"
        return Finding(name, Grade.WARN, message)
    return Finding(name, Grade.FAIL, message)


def _unix_socket(socket: UnixSocket, machine: Machine) -> Finding:
    name = "Unix socket"
    if socket.error is None:
        return Finding(name, Grade.OK, f"{socket.path} is free")
    if socket.is_taken:
        if machine.serving_pid is not None or machine.serving_version is not None:
            return Finding(name, Grade.OK, f"{socket.path} is in use, and a collector is running")
        message = (
            f"{socket.path} is in use, but not by a collector with this configuration; free it or change "
            "server.unix_socket (unless systemd holds it for the collector)"
        )
        return Finding(name, Grade.WARN, message)
    return Finding(name, Grade.FAIL, f"cannot listen on {socket.path}: {socket.error}; or change server.unix_socket")


def running(found: Examined) -> Iterator[Finding]:
    """Whether a collector is already running with this data_dir or admin port."""
    machine = found.machine
    version = f" {machine.serving_version}" if machine.serving_version else ""
    if machine.serving_pid is not None:
        yield Finding("running", Grade.OK, f"collector{version} (process {machine.serving_pid}) is using data_dir")
    elif machine.serving_version:
        message = f"collector{version} answers on the admin port, but uses a different data_dir; check storage.data_dir"
        yield Finding("running", Grade.WARN, message)


def left_over(found: Examined) -> Iterator[Finding]:
    """What an earlier process left in the journal and in quarantine."""
    kept = found.machine.kept
    if kept.segments and found.machine.serving_pid is None:
        left = f"{count(kept.segments, 'unpublished segment')} ({decimal(kept.segment_bytes)})"
        yield Finding("journal", Grade.OK, f"{left}; the next start publishes them while it serves")
    if kept.quarantined:
        message = (
            f"{count(kept.quarantined, 'file')} in quarantine/ with data that could not be read; "
            "list them with `collector inspect`"
        )
        yield Finding("quarantine", Grade.WARN, message)


def proxies(found: Examined) -> Iterator[Finding]:
    """Who may give the client's address, and who can reach the admin listener."""
    server, name = found.config.server, "proxies"
    trusted, host, header = server.trusted_proxies, server.host, server.client_ip_header
    networks = [proxy for proxy in trusted if not isinstance(proxy, str)]
    anyone = [network for network in networks if network.prefixlen == 0]
    wide = [network for network in networks if not network.is_private and network.num_addresses > 1 << 24]
    if anyone or wide:
        listed = ", ".join(map(str, anyone or wide))
        message = (
            f"server.trusted_proxies has {listed}: any host in it can forge {header} and evade every limit; "
            "list only your proxies"
        )
        yield Finding(name, Grade.WARN, message)
    elif trusted:
        yield Finding(name, Grade.OK, f"{header} is believed from {', '.join(map(str, trusted))}")
    elif host and _is_loopback(host):
        message = (
            f"server.host is {host}, so clients come through a proxy, but server.trusted_proxies is empty: all clients "
            "have the proxy's address and share one rate limit; list the proxy"
        )
        yield Finding(name, Grade.WARN, message)
    else:
        yield Finding(name, Grade.OK, "none; if a proxy is in front, list it in server.trusted_proxies")
    for hint in hints(server):
        yield Finding(name, Grade.WARN, hint)
    if not _is_loopback(found.config.admin.host):
        message = (
            f"admin.host is {found.config.admin.host}, but the admin listener has no authentication; "
            "use 127.0.0.1, or let only Prometheus reach it"
        )
        yield Finding("admin", Grade.WARN, message)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def sites(found: Examined) -> Iterator[Finding]:
    """How many sites there are, and how many accept events from any origin."""
    settings = found.config.sites
    open_to_all = sum(not site.allowed_origins for site in settings.values())
    off = sum(not site.tracking for site in settings.values())
    message = f"{len(settings)} configured; {open_to_all} without allowed_origins, so open to any origin"
    yield Finding("sites", Grade.OK, message + (f"; {off} with tracking off" if off else ""))
    if len(settings) > 1_000 and "site" in found.config.storage.partition_by:
        message = (
            f"every flush writes a part for each of {len(settings)} sites; "
            'storage.partition_by = ["date"] costs far less'
        )
        yield Finding("partitions", Grade.WARN, message)


CHECKS: tuple[Check, ...] = (
    data_dir,
    file_system,
    space,
    syncing,
    descriptors,
    backlog,
    memory,
    cores,
    clock,
    ports,
    running,
    left_over,
    proxies,
    sites,
)


def examine(found: Examined) -> list[Finding]:
    """All findings, in the order of the checks."""
    return [finding for check in CHECKS for finding in check(found)]


def milliseconds(seconds: float) -> str:
    """The time in milliseconds, with two significant digits."""
    digits = max(0, 1 - math.floor(math.log10(seconds * 1e3))) if seconds > 0 else 0
    return f"{seconds * 1e3:.{digits}f} ms"

"""The checks: each from the configuration and what was found of the machine to findings. Nothing is looked up here."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from rich.filesize import decimal

from collector.cli.doctor.disk import DiskSpeed
from collector.cli.doctor.machine import Machine, Port
from collector.clock import SECONDS_PER_DAY
from collector.config import Config
from collector.daemon.resources import ACCEPTED_TOGETHER, BACKLOG, MAX_CONNECTIONS, OTHER_DESCRIPTORS
from collector.daemon.serve import processes
from collector.daemon.worker import MIN_FREE_INODES
from collector.journal.journal import MEMORY_SEGMENTS

# Beside its events a worker takes 70 MB, idle, and 80 for 10,000 connections.
WORKER_BYTES = 150_000_000
BYTES_PER_EVENT = 75  # of Parquet, where no part tells (bench/README.md, "Peak")
LONG_ENOUGH_DAYS = 14
SLOW_COMMIT_S = 0.1
CLOCK_BACK_S = 120.0

_GONE_WITH_POWER = {"tmpfs", "ramfs"}
_GONE_WITH_CONTAINER = {"overlay", "aufs"}
_OF_A_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs"}


class Grade(Enum):
    """How much a finding matters."""

    OK = "ok"
    WARN = "warning"
    FAIL = "fails"  # it would keep the collector from serving


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, for a person."""

    name: str
    grade: Grade
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What the checks are given."""

    config: Config
    machine: Machine
    disk: DiskSpeed
    rate: float  # events a second that the disk should last for


Check = Callable[[Examined], Iterator[Finding]]


def data_dir(found: Examined) -> Iterator[Finding]:
    """Whether it is there, or can be made, and is ours to write."""
    folder, user, name = found.machine.folder, found.machine.user, "data_dir"
    if folder.error:
        yield Finding(name, Grade.FAIL, f"{folder.path} cannot be looked at: {folder.error}")
    elif not folder.is_folder:
        yield Finding(name, Grade.FAIL, f"{folder.path} is not a folder")
    elif not folder.writable:
        yield Finding(name, Grade.FAIL, f"{folder.path} cannot be written by user {user}; it is user {folder.owner}'s")
    elif not folder.is_data_dir:
        wanted = found.config.storage.data_dir
        yield Finding(name, Grade.OK, f"{wanted} is not there yet; a start makes it in {folder.path}")
    else:
        yield Finding(name, Grade.OK, f"{folder.path}, of user {folder.owner}")
    if user == 0 and folder.owner > 0:
        as_it = f"the collector will be user {folder.owner}: run the doctor as that user, too (docs/systemd.md)"
        words = f"looked at as root; {as_it}"
        yield Finding("user", Grade.WARN, words)


def file_system(found: Examined) -> Iterator[Finding]:
    """Whether its kind keeps what it is given."""
    kind, name = found.machine.folder.file_system, "file system"
    if kind in _GONE_WITH_POWER:
        yield Finding(
            name, Grade.WARN, f"{kind} is memory: a power cut or a reboot takes every event, whatever durability"
        )
    elif kind in _GONE_WITH_CONTAINER:
        yield Finding(
            name, Grade.WARN, f"{kind} is a container's own layer and goes with it: mount a volume for data_dir"
        )
    elif kind in _OF_A_NETWORK or kind.startswith("nfs"):
        words = f"{kind} is a network's: its locks and syncs may not hold, and it can hang; use a disk of this machine"
        yield Finding(name, Grade.WARN, words)
    else:
        yield Finding(name, Grade.OK, kind or "of unknown kind")


def space(found: Examined) -> Iterator[Finding]:
    """Free bytes and inodes, and how long they last."""
    folder, storage, name = found.machine.folder, found.config.storage, "disk space"
    room = folder.free_bytes - storage.min_free_bytes
    event_bytes = found.machine.kept.bytes_per_event or BYTES_PER_EVENT
    days = room / (found.rate * event_bytes * SECONDS_PER_DAY)
    free = f"{decimal(folder.free_bytes)} are free"
    lasts = (
        f"for {days:,.0f} days of {found.rate:g} events a second, at {event_bytes:.0f} bytes of Parquet an event "
        + ("as in the newest parts" if found.machine.kept.bytes_per_event else "as in the benchmarks")
    )
    if room <= 0:
        words = f"{free}, less than storage.min_free_bytes ({decimal(storage.min_free_bytes)}): every event is refused"
        yield Finding(name, Grade.FAIL, words)
    elif room < 2 * storage.segment_max_bytes:
        yield Finding(name, Grade.WARN, f"{free}, hardly more than storage.min_free_bytes and two segments")
    elif days < LONG_ENOUGH_DAYS and not 0 < storage.retention_days <= days:
        yield Finding(name, Grade.WARN, f"{free}: {lasts}; set storage.retention_days")
    else:
        yield Finding(name, Grade.OK, f"{free}: {lasts}")
    if folder.free_inodes is not None and folder.free_inodes < MIN_FREE_INODES:
        yield Finding(
            "inodes", Grade.FAIL, f"{folder.free_inodes} are free, below {MIN_FREE_INODES}: every event is refused"
        )
    elif folder.free_inodes is not None and folder.free_inodes < 100_000:
        yield Finding("inodes", Grade.WARN, f"{folder.free_inodes} are free; a part takes one, and so does a folder")


def syncing(found: Examined) -> Iterator[Finding]:
    """How the disk commits."""
    disk, name = found.disk, "disk"
    if disk.error:
        yield Finding(name, Grade.FAIL, f"what a collector does with files does not work there: {disk.error}")
        return
    median, p99 = disk.commit_at(0.5), disk.commit_at(0.99)
    words = (
        f"a commit is synced in {milliseconds(median)} at the median, {milliseconds(p99)} at p99 "
        f"({len(disk.commit_s)} of 16 KiB); {decimal(int(disk.bytes_per_s))} a second in one piece"
    )
    slow = p99 > SLOW_COMMIT_S and found.config.storage.durability == "fsync"
    yield Finding(name, Grade.WARN if slow else Grade.OK, words + ("; answers wait for that" if slow else ""))


def descriptors(found: Examined) -> Iterator[Finding]:
    """Whether there are enough for the connections that a worker would take."""
    most, name = found.machine.max_descriptors, "file limit"
    wanted = MAX_CONNECTIONS + OTHER_DESCRIPTORS
    if 0 <= most < wanted:  # -1: no limit
        room = max(most // 2, most - OTHER_DESCRIPTORS)
        words = f"{most} descriptors are enough for {room} connections a worker, not {MAX_CONNECTIONS}"
        grade = Grade.FAIL if room < ACCEPTED_TOGETHER else Grade.WARN
        yield Finding(name, grade, f"{words}; raise LimitNOFILE (systemd) or ulimit -Hn to {wanted}")
    else:
        yield Finding(name, Grade.OK, f"enough for {MAX_CONNECTIONS} connections a worker")


def backlog(found: Examined) -> Iterator[Finding]:
    """Whether the kernel lets as many wait to be accepted."""
    most = found.machine.backlog
    if most is not None and most < BACKLOG:
        words = (
            f"net.core.somaxconn is {most}: in a rush so many connections wait, not {BACKLOG}, and others are dropped"
        )
        yield Finding("backlog", Grade.WARN, words)


def memory(found: Examined) -> Iterator[Finding]:
    """Whether the segments that are in memory fit."""
    has, workers = found.machine.memory_bytes, processes(found.config.server.workers)
    takes = workers * (WORKER_BYTES + MEMORY_SEGMENTS * found.config.storage.segment_max_bytes)
    if has is None:
        return
    words = f"up to {decimal(takes)} for {workers} worker{'s' * (workers > 1)}; there are {decimal(has)}"
    if takes > has:
        words += ": it can be killed; lower storage.segment_max_bytes or server.workers"
    yield Finding("memory", Grade.OK if takes <= has else Grade.WARN, words)


def cores(found: Examined) -> Iterator[Finding]:
    """Whether there is a core for each worker."""
    workers, has = processes(found.config.server.workers), found.machine.cores
    words = f"{workers} worker{'s' * (workers > 1)} on {has} core{'s' * (has > 1)}"
    if workers > has:
        yield Finding("CPU", Grade.WARN, f'{words}: more share a core than help; server.workers = "auto" takes {has}')
    else:
        yield Finding("CPU", Grade.OK, words)


def clock(found: Examined) -> Iterator[Finding]:
    """Whether it is right, as far as a machine can know."""
    machine, name = found.machine, "clock"
    newest = machine.kept.newest_s
    if newest is not None and newest > machine.now_s + CLOCK_BACK_S:
        words = f"the newest part is {newest - machine.now_s:,.0f} s in the future: the clock was or is wrong"
        yield Finding(name, Grade.WARN, words)
    elif machine.clock_synchronised:
        yield Finding(name, Grade.OK, "synchronised")
    elif machine.clock_synchronised is None:
        yield Finding(name, Grade.WARN, "the kernel does not say whether it is synchronised")
    else:
        words = "nothing keeps it right (timedatectl set-ntp true): received_at and the days of parts follow it"
        if found.config.storage.retention_days:
            words += ", and retention_days drops days by it"
        yield Finding(name, Grade.WARN, words)


def ports(found: Examined) -> Iterator[Finding]:
    """Whether they are free, or our own."""
    for port in found.machine.ports:
        yield _port(port, found.machine)


def _port(port: Port, machine: Machine) -> Finding:
    name = f"{port.name} port"
    if port.error is None:
        return Finding(name, Grade.OK, f"{port.address} is free")
    if not port.is_taken:
        return Finding(name, Grade.FAIL, f"{port.address} cannot be listened on: {port.error}")
    if port.held_by_systemd:
        return Finding(name, Grade.OK, f"{port.address}: systemd listens there, and hands it to its service")
    if machine.serving_pid is not None or machine.serving_version is not None:
        return Finding(name, Grade.OK, f"{port.address} is taken, as a collector is running")
    words = f"{port.address} is taken, and no collector is running with this configuration"
    if port.held_by_systemd is None and machine.user != 0:
        words += " (if by systemd for it, all is well: root can see that)"
        return Finding(name, Grade.WARN, words)
    return Finding(name, Grade.FAIL, words)


def running(found: Examined) -> Iterator[Finding]:
    """Whether a collector is at work there."""
    machine = found.machine
    version = f" {machine.serving_version}" if machine.serving_version else ""
    if machine.serving_pid is not None:
        yield Finding("running", Grade.OK, f"collector{version} (process {machine.serving_pid}) uses data_dir now")
    elif machine.serving_version:
        words = f"collector{version} answers on the admin port, and uses another data_dir than this one"
        yield Finding("running", Grade.WARN, words)


def left_over(found: Examined) -> Iterator[Finding]:
    """What a collector that is dead has left."""
    kept = found.machine.kept
    if kept.segments and found.machine.serving_pid is None:
        words = (
            f"{kept.segments} segments of {decimal(kept.segment_bytes)} are left; a start publishes them beside serving"
        )
        yield Finding("journal", Grade.OK, words)
    if kept.quarantined:
        words = (
            f"{kept.quarantined} files are in quarantine/: what could not be read back; `collector inspect` lists them"
        )
        yield Finding("quarantine", Grade.WARN, words)


def proxies(found: Examined) -> Iterator[Finding]:
    """Who may say whose event it is."""
    trusted, host, name = found.config.server.trusted_proxies, found.config.server.host, "proxies"
    anyone = [network for network in trusted if network.prefixlen == 0]
    wide = [network for network in trusted if not network.is_private and network.num_addresses > 1 << 24]
    if anyone or wide:
        listed = ", ".join(map(str, anyone or wide))
        words = f"server.trusted_proxies has {listed}: whoever is in it can forge X-Forwarded-For, and pass every limit"
        yield Finding(name, Grade.WARN, words)
    elif trusted:
        yield Finding(name, Grade.OK, f"X-Forwarded-For is believed from {', '.join(map(str, trusted))}")
    elif _is_loopback(host):
        words = (
            f"it listens on {host}, so a proxy must be in front, and none is in server.trusted_proxies: every client "
            "has the proxy's address, and all share one rate limit"
        )
        yield Finding(name, Grade.WARN, words)
    else:
        yield Finding(name, Grade.OK, "none; if there is one, list it in server.trusted_proxies")
    if not _is_loopback(found.config.admin.host):
        words = f"admin.host is {found.config.admin.host}: the admin listener asks nobody who they are"
        yield Finding("admin", Grade.WARN, words)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def sites(found: Examined) -> Iterator[Finding]:
    """How many there are, and who may send for them."""
    settings = found.config.sites
    open_to_all = sum(not site.allowed_origins for site in settings.values())
    off = sum(not site.tracking for site in settings.values())
    words = f"{len(settings)}, of these {open_to_all} take events from any origin (allowed_origins)"
    yield Finding("sites", Grade.OK, words + (f", {off} have tracking off" if off else ""))
    if len(settings) > 1_000 and "site" in found.config.storage.partition_by:
        words = f'{len(settings)} with a part each, every flush: partition_by = ["date"] takes far less'
        yield Finding("partitions", Grade.WARN, words)


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
    """Every finding, in the order of the checks."""
    return [finding for check in CHECKS for finding in check(found)]


def milliseconds(seconds: float) -> str:
    """With two digits that count."""
    digits = max(0, 1 - math.floor(math.log10(seconds * 1e3))) if seconds > 0 else 0
    return f"{seconds * 1e3:.{digits}f} ms"

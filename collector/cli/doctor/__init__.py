"""`collector doctor`: would this machine hold a collector, and how much of one?

machine.py   looks things up
speed.py     measures: the disk's syncs, the CPU of an event
checks.py    the checks, each from what was found to findings
verdict.py   says in words what durability and rate the machine holds
command.py   all of it, from the configuration file to the exit code
"""

from collector.cli.doctor.command import add_arguments, run

__all__ = ["add_arguments", "run"]

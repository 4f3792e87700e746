"""`collector doctor`: checks that this machine can run the collector.

machine.py   collects facts about the machine
disk.py      measures how long the disk takes to sync
checks.py    turns the facts into findings
verdict.py   says what the durability setting survives, and how long responses take
command.py   runs all of it, from the configuration file to the exit code
"""

from collector.cli.doctor.command import add_arguments, run

__all__ = ["add_arguments", "run"]

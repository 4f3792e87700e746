"""`collector doctor`: checks that this machine can run the collector.

machine.py   looks things up, and checks nothing
disk.py      measures how long the disk takes to sync
checks.py    checks what was found, each check from values to findings
verdict.py   says what the durability survives, and how long answers take
command.py   all of it, from the configuration file to the exit code
"""

from collector.cli.doctor.command import add_arguments, run

__all__ = ["add_arguments", "run"]

"""`collector import`: sends the events of a file to a collector, in batches.

source.py    opens the file and unpacks it: lines
batches.py   cuts the lines into batches, always at the same places
answers.py   what the answer to a batch means
sender.py    sends a batch until it is answered: waits, sends it again, or sends it in halves
client.py    one request over HTTP
key_file.py  reads the sender's key
progress.py  the progress bar
run.py       reads a batch while the one before it is sent, until the end of the file
command.py   runs all of it, from the arguments to the exit code
"""

from collector.cli.importing.command import add_arguments, run

__all__ = ["add_arguments", "run"]

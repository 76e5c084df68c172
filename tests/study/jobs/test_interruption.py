"""The end of Snakemake's children by SIGTERM, in a process that has children of its own."""

import subprocess
import sys

CODE = """
import subprocess
from pathlib import Path
from study.jobs.interruption import terminate_children

read = Path.read_text
def lose_the_first(path):
    if str(first.pid) in path.parts:
        raise ProcessLookupError
    return read(path)

first = subprocess.Popen(["sleep", "60"])
second = subprocess.Popen(["bash", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE)
child = int(second.stdout.readline())
Path.read_text = lose_the_first
terminate_children()
# The child of the second has its end of the pipe until it ends.
print(first.wait(), second.wait(), second.stdout.read())
"""


def test_all_children_end_although_one_ends_while_they_are_listed() -> None:
    """Snakemake did not end, and its folder stayed locked."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("-15 -15 b''\n", "")

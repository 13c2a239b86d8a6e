"""Garbage collection of a command: deferred while it imports, as usual afterwards, skipped at the end."""

import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = """
import atexit, gc, tempfile, weakref
from engine.cli import run_command
from engine.system import garbage_collection

class Node:
    pass

def make_cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

def main(args):
    print(gc.get_threshold() == garbage_collection.IMPORT_THRESHOLDS)
    garbage_collection.resume()
    print(gc.get_threshold() == garbage_collection.THRESHOLDS)
    cycle = make_cycle()
    kept = [[] for _ in range(1_000_000)]
    print(cycle() is None)
    global folder, unfinished
    folder, unfinished = tempfile.TemporaryDirectory(), make_cycle()
    print(folder.name)
    atexit.register(lambda: print("at exit"))

run_command(main)
"""


def test_a_command_collects_as_usual_after_its_imports_and_cleans_up_at_exit():
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=True)
    *checks, folder, last = done.stdout.splitlines()
    assert checks == ["True"] * 3 and last == "at exit" and not done.stderr
    assert folder.startswith(tempfile.gettempdir()) and not Path(folder).exists()


def test_thresholds_of_a_program_that_imports_the_packages_stay():
    """Only commands defer the collection."""
    code = """
import gc
before = gc.get_threshold()
import engine.cli, engine.training.distributed
engine.training.distributed.make_accelerator("float32")
print(gc.get_threshold() == before)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"

"""The answer key as a package of its own: `pip install ./conformance` brings numpy only.

Its modules import each other by plain names, as scripts do, so a command runs the script.
"""
import runpy
import sys
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(name):
    sys.path.insert(0, str(HERE))
    runpy.run_path(str(HERE / name), run_name="__main__")


check = partial(run, "check.py")
check_model = partial(run, "check_model.py")

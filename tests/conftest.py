"""The tests import the project's files from the folder above, on one thread: tensors are tiny."""
import runpy
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
torch.set_num_threads(1)


def calls_of(module):
    """-> calls_to(monkeypatch, name): replaces a function of the module by one that notes the
    arguments of its calls, in order, and gives an answer."""
    def calls_to(monkeypatch, name, answer=lambda *of, **more: None):
        calls = []

        def instead(*of, **more):
            calls.append((of, more))
            return answer(*of, **more)
        monkeypatch.setattr(module, name, instead)
        return calls
    return calls_to


def as_program(monkeypatch, module, *given):
    """python -m module given...  -> what it exits with"""
    monkeypatch.setattr(sys, "argv", [module, *given])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    return end.value.code

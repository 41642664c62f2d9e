"""The tests import the project's files from the folder above, on one thread: tensors are tiny."""
import sys
from pathlib import Path

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

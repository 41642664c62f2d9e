"""The tests import the project's files from the folder above, on one thread: tensors are tiny."""
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
torch.set_num_threads(1)

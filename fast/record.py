"""A function of tensors, recorded as a CUDA graph: one launch in place of hundreds."""
import torch


class Recorded:
    """Calls a function three times, records it in the fourth call, then replays the recording.

    The function takes CUDA tensors whose shapes stay the same, reads and writes other tensors in
    place, and must not wait for the device. It returns a tensor that each call overwrites.
    """

    def __init__(self, function):
        self.function = function
        self.calls = 0
        self.graph = None

    def __call__(self, *inputs):
        self.calls += 1
        if self.calls <= 3:  # libraries load, optimizers make their state
            return self.function(*inputs)
        if self.graph is None:
            self.inputs = [x.clone() for x in inputs]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # which does not compute anything yet
                self.output = self.function(*self.inputs)
        for mine, new in zip(self.inputs, inputs):
            mine.copy_(new, non_blocking=True)
        self.graph.replay()
        return self.output

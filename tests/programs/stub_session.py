"""Runs a graph for `onnxruntime_stub.cs`: `stub_session.py GRAPH 1 H W 3`, the image's bytes on stdin; a line for each
output on stdout, its name and its values."""

import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
image = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape([int(n) for n in sys.argv[2:]])
for port, values in zip(session.get_outputs(), session.run(None, {"image": image}), strict=True):
    print(port.name, *(repr(float(v)) for v in values.ravel()))

"""Run a graph once in a process of its own, which may be ended: some graphs never end, or take all memory.

    python trial.py FOLDER BYTES        # FOLDER/graph.onnx, FOLDER/NAME.npy of its weights by number, names.json

Needs nothing but numpy and onnxruntime, so that it starts in a moment. Exit code 0: it gave answers to the pixels.
"""

import json
import resource
import sys
from pathlib import Path

OUT_OF_MEMORY = 3
"""The exit code that says so."""


def main(folder: Path, memory: int) -> None:
    """Run the graph in a folder, within so many bytes of memory."""
    import numpy as np
    import onnxruntime

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    names = json.loads((folder / "names.json").read_text())
    arrays = [np.load(folder / f"{number}.npy", mmap_mode="r") for number in range(len(names))]
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in arrays]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_external_initializers(names, values)
    session = onnxruntime.InferenceSession(
        (folder / "graph.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    session.run(None, {"pixel_values": np.load(folder / "pixels.npy")})


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except Exception as error:  # of ONNX Runtime's own kinds
        sys.exit(OUT_OF_MEMORY if isinstance(error, MemoryError) or "alloc" in str(error) else 1)

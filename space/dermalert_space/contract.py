"""The release contract: file names, keys and tolerances that training and serving share.

Nothing else knows them: a name that both sides need stands here once.
"""

NOT_A_DEVICE = "For research and education only. Not a medical device; does not replace a dermatologist."

REFERENCE = "evaluation/parity.safetensors"
"""In a release: `images`, uint8 (n, H, W, 3), and the `probabilities` (n, labels) that it must give of them."""

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Files of a release that say how an image becomes pixels of the model; of the two, transformers prefers the latter."""

METRICS = "evaluation/metrics.json"

TOLERANCE = 1e-3
"""How far a probability may be from the recorded one on another machine; on the same one it is below 1e-5."""

PREDICTIONS = "evaluation/predictions.parquet"
"""A row for each image of a measured split: its id, group, truth, abstention and a probability for each diagnosis."""

EXPOSURE = "evaluation/seen.parquet"
"""A row for each image that the release was developed on, by hashes: what no later release may be measured on."""

STATISTICS = "refusal.safetensors"
"""In a release: `mean` and `scale` (d,), `basis` (k, d), `variance` (k,) and `noise` (1,) of the training features."""

GRAPH = "onnx/graph.onnx"
"""`logits` (n, labels) and `features` (n, d) of `pixel_values`, for ONNX Runtime; its weights are `WEIGHTS`."""

WEIGHTS = "model.safetensors"

FIGURES = "evaluation/figures"

MODEL = ("config.json", "model*.safetensors", "model.safetensors.index.json", "preprocessor_config.json")
"""Patterns of what `pipeline` loads."""

RELEASE = ("README.md", *MODEL, STATISTICS, "evaluation/*", f"{FIGURES}/*", "onnx/*.onnx")
"""Patterns of all that belongs to a release; nothing else is uploaded, and nothing else is deleted from a repository."""

SERVED = (*MODEL, STATISTICS, GRAPH, REFERENCE, METRICS, PREDICTIONS, EXPOSURE, f"{FIGURES}/*.png")
"""Of these, what the Space reads."""

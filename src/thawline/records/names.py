"""The names of what a run and a sweep leave in their folders: one home, for those who write and those who read."""

RECORD_FILE = "record.json"
"""A run is done when its folder has a valid one."""

CONFIG_FILE = "config.json"
"""The resolved configuration, written before the run starts."""

STATE_FILE = "state.json"
"""How far a run is, while it has no record."""

LAST_FILE = "last.ckpt"
"""The checkpoint that an interrupted run goes on from."""

BEST_FILE = "best.safetensors"
"""The tensors that training changed, of the selected epoch."""

MODEL_FILE = "model.safetensors"
"""The whole selected model, written where somebody needs it."""

PREDICTIONS_FILE = "predictions.npz"
"""The predictions for the test split."""

IMAGE_SCORE_ARRAY = "image_score"
"""In it, the score of each test image, of tasks whose images are more than right or wrong."""

GALLERY_FOLDER = "gallery"
"""The worst and best test images, drawn."""

GALLERY_FILE = "gallery/gallery.json"
"""What they are."""

SWEEP_FILE = "sweep.json"
"""The manifest of a sweep."""

PROTOCOL_FILE = "protocol.json"
"""The manifest of a protocol: its stages, each of them a sweep, and what they chose."""

NEEDS_FILE = "needs.json"
"""What the runs of a sweep need at thaw lines, for processes that have but one of them at a time."""

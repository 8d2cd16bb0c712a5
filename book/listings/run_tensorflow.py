"""Run the sources' TensorFlow listings as they stand, and mended; store what came out.

``python book/listings/run_tensorflow.py`` in an environment that has TensorFlow (the extra
``tensorflow``) writes `tensorflow.json` beside this file. The pages show what it holds.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import traceback
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
SEEDS = 8


def pre_activations(net: Any, x: np.ndarray) -> np.ndarray:
    """What the ReLU of a net receives, in evaluation mode."""
    z = net.dense1(x)
    return np.asarray(net.norm(z, training=False) if hasattr(net, "norm") else z)


def keras(file: str) -> dict[str, list[float]]:
    """Train the Keras net from several seeds; count units that are off for all inputs."""
    listing = runpy.run_path(str(HERE / file))  # not as __main__: it only defines
    found: dict[str, list[float]] = {"dead before": [], "dead after": [], "error": []}
    for seed in range(SEEDS):
        tf.keras.utils.set_random_seed(seed)
        x, y = np.random.rand(100, 100), np.random.rand(100, 10)  # noqa: NPY002  as the listing
        net = listing["Net"]()
        net(x)
        found["dead before"].append(float((pre_activations(net, x) <= 0).all(axis=0).mean()))
        with contextlib.redirect_stdout(io.StringIO()):
            listing["train"](net, x, y)
        found["dead after"].append(float((pre_activations(net, x) <= 0).all(axis=0).mean()))
        found["error"].append(float(np.mean((np.asarray(net(x)) - y) ** 2)))
    return found


def raised(code: str) -> str:
    """Run code, and return the error that it raises in its last line."""
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(code, "listing", "exec"), {"__name__": "listing"})
    except Exception:
        return traceback.format_exc().strip().splitlines()[-1]
    return said.getvalue().strip() or "nothing"


def tensorflow_1() -> dict[str, str]:
    """Run the TensorFlow 1 listing: as it stands, with its names defined, as version 1."""
    code = (HERE / "choice_tensorflow1.py").read_text("utf-8")
    names = "W1 = b1 = W2 = b2 = None\n"
    named = code.replace("learning_rate = 0.01", names + "learning_rate = 0.01")
    version_1 = "import tensorflow.compat.v1 as tf\ntf.disable_eager_execution()"
    return {
        "as it stands": raised(code),
        "with names for its weights": raised(named),
        "in the mode of version 1": raised(named.replace("import tensorflow as tf", version_1)),
    }


def main() -> None:
    """Run all and write the file."""
    found = {
        "tensorflow": tf.__version__,
        "keras": tf.keras.__version__,
        "date": date.today().isoformat(),
        "as written": keras("dead_nodes_keras.py"),
        "mended": keras("dead_nodes_keras_mended.py"),
        "listing for TensorFlow 1": tensorflow_1(),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (HERE / "tensorflow.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""Look up the names of `names.yml` in Keras and TensorFlow; store what was found.

``python book/listings/run_names.py`` in an environment that has TensorFlow (the extra
``tensorflow``) writes `names.json` beside this file. `tests/test_names.py` compares the page
with it, and with the installed PyTorch.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import re
from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

HERE = Path(__file__).parent
ENTRIES = yaml.safe_load((HERE.parent / "names.yml").read_text("utf-8"))
RULES = ["Glorot", "He", "Lecun"]
POINTS = [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]


def entries(library: str) -> Iterator[str]:
    """Each expression of a library."""
    for rows in ENTRIES.values():
        for row in rows:
            yield from row.get(library, [])


def look_up(expression: str, there: dict[str, Any]) -> dict[str, Any]:
    """Find what an expression names; return its arguments and their defaults."""
    tree = ast.parse(expression, mode="eval").body
    called = tree.func if isinstance(tree, ast.Call) else tree
    found = eval(compile(ast.Expression(called), "names.yml", "eval"), {}, there)
    if isinstance(called, ast.Name) and inspect.isclass(found):  # net(x): a call of an instance
        found = found.__call__
    if not isinstance(tree, ast.Call):
        return {}
    try:
        arguments = inspect.signature(found).parameters
    except ValueError:  # written in C, without a signature
        return {}
    plain = (bool, int, float, str, tuple, type(None))
    return {
        name: a.default if isinstance(a.default, plain) else None
        for name, a in arguments.items()
        if name != "self"
    }


def main() -> None:
    """Look up all and write the file."""
    import keras
    import tensorflow as tf

    found = {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "date": date.today().isoformat(),
        "names": look_up_all(keras, tf),
        "values": values(keras, tf),
        "facts": facts(keras, tf),
        "example": example(),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (HERE / "names.json").write_text(text + "\n", "utf-8")


def look_up_all(keras: Any, tf: Any) -> dict[str, dict[str, Any]]:
    """Arguments and defaults of every name of Keras and TensorFlow."""
    there = {name: getattr(keras, name) for name in dir(keras)} | {"keras": keras, "tf": tf}
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    there |= {"net": net, "layer": net.layers[0], "tape": tf.GradientTape()}
    return {e: look_up(e, there) for part in ("keras", "tensorflow") for e in entries(part)}


def values(keras: Any, tf: Any) -> dict[str, list[float]]:
    """What the activations of the page return at a few points, with their defaults."""
    there = {"layers": keras.layers, "activations": keras.activations, "tf": tf}
    x = np.array([POINTS], "float32")
    found = {}
    for row in ENTRIES["Activations"]:
        for expression in row.get("keras", []) + row.get("tensorflow", []):
            call = re.sub(r"\(approximate=form\)", "", expression)
            made = eval(call.partition("(")[0], {}, there)
            f = (lambda x, m=made: m(x, approximate=True)) if call != expression else made
            f = f() if inspect.isclass(made) else f
            found[expression] = [float(value) for value in np.asarray(f(x))[0]]
    return found


def facts(keras: Any, tf: Any) -> dict[str, Any]:
    """What the page says of Keras and TensorFlow beyond names and defaults, tried."""
    keras.utils.set_random_seed(0)
    layers, optimizers = keras.layers, keras.optimizers
    rng = np.random.default_rng(0)

    def steps(optimizer: Any, gradients: list[float], *rates: float) -> list[float]:
        w = keras.Variable(np.array([1.0], "float32"))
        optimizer.build([w])
        seen = [1.0]
        for k, gradient in enumerate(gradients):
            if rates:
                optimizer.learning_rate = rates[k]
            optimizer.apply([keras.ops.convert_to_tensor([gradient])])
            seen.append(float(w[0]))
        return [b - a for a, b in pairwise(seen)]

    def draws(rule: Any) -> dict[str, float]:
        w = np.asarray(rule((400, 300)))
        return {"deviation": float(w.std()), "largest": float(np.abs(w).max())}

    prelu = layers.PReLU()
    prelu.build((None, 4, 5, 6))
    dense, convolution = layers.Dense(3), layers.Conv2D(7, 3)
    without = len(dense.weights)
    dense.build((None, 5))
    convolution.build((None, 8, 8, 2))
    norm = layers.BatchNormalization()
    batch = rng.normal(3.0, 2.0, (10, 1)).astype("float32")
    norm(batch, training=True)
    frozen = layers.BatchNormalization(trainable=False)
    small = np.array([[-0.01, 0.01, -0.01, 0.01]], "float32")
    net = keras.Sequential([keras.Input((5,)), layers.Dense(4)])
    clone = keras.models.clone_model(net)
    a, b = (keras.Variable(np.zeros(2, "float32")) for _ in range(2))
    clipped = {}
    for name in ("clipnorm", "global_clipnorm"):
        optimizer = optimizers.SGD(1.0, **{name: 1.0})
        a.assign(np.zeros(2)), b.assign(np.zeros(2))
        optimizer.build([a, b])
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in ([3.0, 0.0], [0.0, 4.0])])
        clipped[name] = [float(-a[0]), float(-b[1])]
    logits = np.array([[2.0, -1.0]], "float32")
    stretched = layers.SpectralNormalization(layers.Dense(3), power_iterations=50)
    stretched(np.ones((1, 5), "float32"), training=True)
    warm = optimizers.schedules.CosineDecay(0.0, 50, warmup_target=1.0, warmup_steps=10)
    return {
        "the layers of tf.keras are Keras'": tf.keras.layers.Dense is layers.Dense,
        "slopes of PReLU": [int(np.prod(prelu.alpha.shape)), float(np.max(prelu.alpha))],
        "shape of a dense layer's weights": [*dense.kernel.shape],
        "weights before the first input": without,
        "shape of a convolution's weights": [*convolution.kernel.shape],
        "shape of its output": [*convolution(np.ones((1, 8, 8, 2), "float32")).shape],
        "batch": batch[:, 0].tolist(),
        "running mean": float(norm.moving_mean[0]),
        "running variance": float(norm.moving_variance[0]),
        "frozen batch norm": float(np.asarray(frozen(batch, training=True))[0, 0]),
        "layer norm of 0.01": float(np.asarray(layers.LayerNormalization()(small))[0, 1]),
        "dropout in a plain call": np.asarray(layers.Dropout(0.5)(np.ones((1, 8)))).tolist(),
        "dropout in training": np.unique(
            layers.Dropout(0.75)(np.ones((1, 64)), training=True)
        ).tolist(),
        "draws": {
            "layers.Dense": draws(keras.initializers.get("glorot_uniform")),
            **{
                name: draws(getattr(keras.initializers, name)())
                for name in (
                    f"{rule}{kind}" for rule in RULES for kind in ("Normal", "Uniform")
                )
            },
            "scale 2": draws(keras.initializers.VarianceScaling(scale=2.0)),
        },
        "momentum, the rate cut tenfold": steps(
            optimizers.SGD(0.1, momentum=0.9), [1.0, 1.0, 1.0], 0.1, 0.1, 0.01
        ),
        "RMSprop at a gradient of 1e-4": steps(optimizers.RMSprop(epsilon=1e-4), [1e-4]),
        "Adam at gradients of 1 and 1e-6": [
            steps(optimizers.Adam(), [g])[0] for g in (1.0, 1e-4, 1e-6)
        ],
        "weight decay 0.1 at rate 0.5": {
            name: steps(getattr(optimizers, name)(0.5, weight_decay=0.1), [0.0])[0]
            for name in ("SGD", "RMSprop", "Adam", "AdamW")
        },
        "L2 penalty of 3": float(keras.regularizers.L2(0.1)(np.array([3.0], "float32"))),
        "l2_loss of 3": float(tf.nn.l2_loss(np.array([3.0], "float32"))),
        "clipped to 1": clipped,
        "cross-entropy": [
            float(
                keras.losses.SparseCategoricalCrossentropy(from_logits=flag)(np.array([0]), p)
            )
            for flag, p in ((False, np.asarray(tf.nn.softmax(logits))), (True, logits))
        ],
        "largest singular value": float(
            np.linalg.svd(np.asarray(stretched.layer.kernel), compute_uv=False)[0]
        ),
        "warm-up": [float(warm(step)) for step in (0, 5, 10)],
        "a clone's weights are the old ones": bool(
            np.array_equal(net.get_weights()[0], clone.get_weights()[0])
        ),
        "three numbers from seed 0": [
            float(v) for v in (keras.utils.set_random_seed(0), keras.random.normal((3,)))[1]
        ],
        "a layer takes hooks": hasattr(keras.Layer, "register_forward_hook"),
    }


def example() -> str:
    """Run the page's program, and return what it printed."""
    page = (HERE.parent / "names.md").read_text("utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code[1], "names.md", "exec"), {})
    return said.getvalue().strip()


if __name__ == "__main__":
    main()

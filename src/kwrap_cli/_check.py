"""`kwrap plugins --check`: each plugin loaded, and each of its hooks tried on a small layer."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import keras
import numpy as np

import kwrap
from kwrap._registry import RegisteredHook
from kwrap_cli._output import print_result, table

__all__ = ["print_checked"]

_COLUMNS = ("plugin", "package", "version", "status", "hooks")


def print_checked(rows: Sequence[dict[str, str]], *, as_json: bool) -> None:
    """Load the plugins of `rows` and print what has become of them; exit with 1 if one is broken."""
    kwrap.plugins.load()
    state = {(plugin.name, plugin.distribution): plugin for plugin in kwrap.plugins.list()}
    checked = []
    for row in rows:
        plugin = state[row["plugin"], row["package"]]
        hooks = [one for one in kwrap.registered() if one.plugin == plugin.name] if plugin.usable else []
        status = row["status"] if plugin.status == "blocked" else plugin.status
        problem = "" if plugin.usable or plugin.status == "blocked" else plugin.unusable_because
        with redirect_stdout(StringIO()):  # a hook may print, as a trace does
            found = [{"hook": one.name, "problem": check_hook(one)} for one in hooks]
        checked.append({**row, "status": status, "problem": problem, "hooks": found})
    print_result(_table(checked), {"plugins": checked}, as_json=as_json)
    if any(_is_broken(row) for row in checked):
        raise SystemExit(1)


def check_hook(registered: RegisteredHook) -> str:
    """Put a hook, with its default options, on a small layer, call it, and take it off; return what fails, or nothing.

    A hook with options that have no default is not tried, nor one for layers that are not among the small ones.
    """
    try:
        hook = registered.hook()
    except kwrap.errors.OptionError:
        return ""
    except Exception as error:  # whatever a plugin's code raises
        return f"cannot be made: {_said(error)}"
    try:
        comes_back = type(hook).from_config(hook.get_config()).get_config() == hook.get_config()
    except Exception as error:  # whatever a plugin's code raises
        return f"its config does not come back from itself: {_said(error)}"
    if not comes_back:
        return "its config does not come back from itself"
    small = [(layer, inputs) for layer, inputs in _small_layers() if isinstance(layer, registered.layer_types)]
    return _try_on(hook, *small[0]) if small else ""


def _small_layers() -> Sequence[tuple[keras.Layer, Any]]:
    ones = np.ones
    return (
        (keras.layers.Dense(3), ones((2, 4), "float32")),
        (keras.layers.Conv2D(3, 2), ones((2, 4, 4, 2), "float32")),
        (keras.layers.Embedding(4, 3), ones((2, 3), "int32")),
        (keras.layers.LSTM(3), ones((2, 4, 3), "float32")),
        (keras.layers.MultiHeadAttention(1, 2), ones((2, 4, 3), "float32")),
        (keras.layers.BatchNormalization(), ones((2, 4), "float32")),
    )


def _try_on(hook: kwrap.Hook, layer: keras.Layer, inputs: Any) -> str:
    tensor = keras.Input(inputs.shape[1:], dtype=str(inputs.dtype))
    attention = isinstance(layer, keras.layers.MultiHeadAttention)
    model = keras.Model(tensor, layer(tensor, tensor) if attention else layer(tensor))
    try:
        kwrap.wrap_model(model, hook, where=type(layer))
        for training in (False, True):
            if not all(np.isfinite(output).all() for output in keras.tree.flatten(model(inputs, training=training))):
                return f"on a {type(layer).__name__}, its output is not finite"
        kwrap.unwrap_model(model)
    except Exception as error:  # whatever a plugin's code raises
        return f"on a {type(layer).__name__}: {_said(error)}"
    return "" if not kwrap.find_hooks(model) else "does not come off again"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _is_broken(row: dict[str, Any]) -> bool:
    return bool(row["problem"]) or any(hook["problem"] for hook in row["hooks"])


def _table(checked: Sequence[dict[str, Any]]) -> Any:
    rows, problems = [], []
    for row in checked:
        names = ", ".join(hook["hook"] for hook in row["hooks"])
        rows.append((*(row[column] for column in _COLUMNS[:-1]), names))
        if row["problem"]:
            problems.append(f"{row['plugin']}: {row['problem']}")
        problems += [f"hook {hook['hook']}: {hook['problem']}" for hook in row["hooks"] if hook["problem"]]
    return table(_COLUMNS, rows, caption="\n".join(problems) or None)

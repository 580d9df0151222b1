"""Files as a stranger may make them: from a saved model, with something in it changed."""

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import keras

import kwrap

from .specimens import Adapter, Times

Members = Iterable[tuple[str | zipfile.ZipInfo, bytes]]


def saved_model(folder: Path) -> Path:
    """Save a small compiled model with hooks in its graph and inside a layer; return the file."""
    inputs = keras.Input((3,), name="inputs")
    twice = keras.layers.TimeDistributed(keras.layers.Dense(2, name="inner"), name="outer")
    outputs = keras.layers.Dense(2, name="dense")(keras.layers.Flatten(name="flat")(twice(inputs[:, None])))
    model = keras.Model(inputs, outputs, name="model")
    model.compile("adam", "mse")
    kwrap.wrap_model(model, [Times(factor=0.5), Adapter().at("dense")])
    model.optimizer.build(model.trainable_variables)
    path = folder / "saved.keras"
    model.save(path)
    return path


def members_of(path: Path) -> dict[str, bytes]:
    """Return the members of a saved model's file."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive of these members, in this order; return its path."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def forge(source: Path, change: Callable[[dict[str, Any]], Any], name: str = "forged.keras") -> Path:
    """Write the file of `source` with its config changed, or the one that `change` returns; return its path."""
    members = members_of(source)
    config = json.loads(members["config.json"])
    changed = change(config)
    members["config.json"] = json.dumps(config if changed is None else changed).encode()
    return write(source.with_name(name), members.items())


def parts(config: Any) -> list[dict[str, Any]]:
    """Return every object in a config."""
    if isinstance(config, dict):
        return [config, *(part for value in config.values() for part in parts(value))]
    return [part for item in config for part in parts(item)] if isinstance(config, list) else []


def named(config: Any, name: str) -> dict[str, Any]:
    """Return the layer of a config that has this name."""
    return next(part for part in parts(config) if "class_name" in part and part["config"].get("name") == name)


# --- by chance -------------------------------------------------------------------------------------------------------

_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.sampled_from(["", "Dense", "relu", "float64", "linear", "../..", "/etc/passwd", "kwrap>Wrapper", "x" * 1000]),
    st.sampled_from([[], {}, [None, 3], [[]], {"class_name": "Dense", "config": {}}, [10**12], 10**400, -1, 0, 1e308]),
    st.sampled_from(
        [
            {"module": module, "class_name": name, "config": {}, "registered_name": registered}
            for module, name, registered in [
                ("os", "system", None),
                ("builtins", "eval", "eval"),
                ("keras.layers", "Lambda", None),
                ("keras.layers", "Dense", "kwrap>Hooked"),
                ("kwrap._wrapper", "Dense", "kwrap>Wrapper"),
                ("keras.src.backend.torch", "Variable", None),
            ]
        ]
    ),
)


@st.composite
def changes(draw: st.DrawFn, config: Any) -> Any:
    """Draw a config that differs from `config` in one to three places, anywhere: a value, a missing or another key."""
    config = json.loads(json.dumps(config))
    for _ in range(draw(st.integers(1, 3))):
        holder = draw(st.sampled_from(parts(config)))
        if not holder:
            continue
        key = draw(st.sampled_from(sorted(holder)))
        how = draw(st.sampled_from(["value", "value", "drop", "rename", "copy"]))
        if how == "drop":
            del holder[key]
        elif how == "rename":
            holder[draw(st.sampled_from(["class_name", "config", "name", "module", "hooks", "x"]))] = holder.pop(key)
        elif how == "copy":
            holder[key] = json.loads(json.dumps(draw(st.sampled_from(parts(config)))))
        else:
            holder[key] = draw(_VALUES)
    return config


@st.composite
def damages(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw bytes that differ from `data`: cut off, or with some of them changed, taken out, or put in."""
    damaged = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        # Half of them where archives and HDF5 files say what is where.
        place = draw(st.one_of(st.integers(0, len(data) - 1), st.integers(1, min(600, len(data))).map(lambda n: -n)))
        place %= max(1, len(damaged))
        how = draw(st.sampled_from(["change", "change", "cut", "remove", "insert"]))
        if how == "change":
            damaged[place] = draw(st.integers(0, 255))
        elif how == "cut" and draw(st.booleans()):
            del damaged[place:]
        elif how == "remove":
            del damaged[place : place + draw(st.integers(1, 64))]
        else:
            damaged[place:place] = draw(st.binary(min_size=1, max_size=64))
        if not damaged:
            break
    return bytes(damaged)

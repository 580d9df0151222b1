"""Looking for values that are not finite in a model's weights and its hooks' state."""

from dataclasses import dataclass
from typing import Any, final

import keras
import numpy as np

from kwrap._plan import check_model
from kwrap._selection import places

__all__ = ["NonFinite", "check"]


@final
@dataclass(frozen=True, kw_only=True)
class NonFinite:
    """A weight, or a hook's state (`hook` is then the hook's name), with values that are not finite, of `size`."""

    path: str
    hook: str | None
    state: str
    nans: int
    infinities: int
    size: int

    def __str__(self) -> str:
        owner = f"hook {self.hook!r} at {self.path!r}" if self.hook else f"{self.path!r}"
        return f"{owner}: {self.state}: {self.nans} NaN and {self.infinities} infinite of {self.size} values"


def check(model: keras.Model) -> tuple[NonFinite, ...]:
    """Return each weight of `model`, and each state of its hooks, that holds NaN or infinite values, by name.

    An empty tuple: all are finite. The optimizer's own state is not looked at. Nothing is changed.

    Raises:
        ModelTypeError: it is no Keras model.
    """
    check_model(model)
    found = []
    for path, hook, state, variable in _variables(model):
        values = np.asarray(keras.ops.convert_to_numpy(variable.value))
        nans, infinities = _counted(values)
        if nans or infinities:
            found.append(
                NonFinite(path=path, hook=hook, state=state, nans=nans, infinities=infinities, size=values.size)
            )
    return tuple(found)


def _counted(values: Any) -> tuple[int, int]:
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(values.dtype)):
        return 0, 0
    values = values.astype("float32") if values.dtype.itemsize < 4 else values  # bfloat16 is none of NumPy's own
    return int(np.isnan(values).sum()), int(np.isinf(values).sum())


def _variables(model: keras.Model) -> list[tuple[str, str | None, str, keras.Variable]]:
    """Return (path, hook, name, variable) once for each variable, in the order of the model's layers."""
    owners: list[tuple[str, str | None, Any]] = [(model.name, None, model)]
    for place in places(model):
        owners += [(place.path, None, place.layer), *((place.path, hook.name, hook) for hook in place.hooks)]
    # Hooks first, then what is furthest in: of the variables that a layer lists, those not seen before are its own.
    order = sorted(range(len(owners)), key=lambda index: (owners[index][1] is None, -index))
    own: dict[int, list[keras.Variable]] = {}
    seen: set[int] = set()
    for index in order:
        listed = owners[index][2].variables
        own[index] = [variable for variable in listed if id(variable) not in seen]
        seen.update(id(variable) for variable in listed)
    return [
        (path, hook, variable.name, variable) for index, (path, hook, _) in enumerate(owners) for variable in own[index]
    ]

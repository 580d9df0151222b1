"""What a file's config may name: Keras' and KerasHub's own classes, what is registered with Keras, what was given.

Keras itself lets a config name every public function of Keras, those that download and write files but for a list of
them, and imports any module of Keras, KerasHub, KerasCV and KerasNLP that it names (keras.src.saving, 3.15).
"""

import importlib
import inspect
import sys
from collections.abc import Container, Mapping
from typing import Any, Final

import keras

from kwrap.errors import UnknownClassError, UnreadableFileError, UnsafeFileError
from kwrap_files import code_of, is_object, parts_of, title_of

__all__ = ["check_references"]

# Values, which Keras makes without looking a name up.
_VALUES: Final = frozenset(["__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"])
# Keras' public functions that layers take, by the module of their public name. None of them reads, writes, or sets.
_FUNCTIONS: Final = frozenset(
    f"keras.{name}"
    for name in (
        *("activations", "constraints", "initializers", "losses", "metrics", "random", "regularizers"),
        *("ops", "ops.image", "ops.linalg", "ops.nn", "ops.numpy"),
    )
)
# Of an array. Others give each value the size that they name ("U200000000").
_DTYPES: Final = frozenset(
    [
        *("bool", "object", "string", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128"),
        *(f"float{bits}" for bits in (16, 32, 64)),
        *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    ]
)
# They make of a config what it names, and what a file says to do is for Keras' own loading alone.
_LOADERS: Final = frozenset(["deserialize", "get", "serialize"])


def check_references(
    config: Any,
    file: str,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
    legacy: bool = False,
    skip: Container[int] = (),
) -> None:
    """Raise unless everything that `config` names may be named by a file; nothing is made of it.

    Args:
        safe_mode: whether lambdas and other code are refused.
        legacy: whether it is the config of an `.h5` file, whose classes are named without their modules.
        skip: ids of parts that are left out.

    Raises:
        UnsafeFileError: it holds code.
        UnreadableFileError: an array in it is of a dtype that is not Keras'.
        UnknownClassError: it names what is neither Keras' nor registered nor in `custom_objects`.
    """
    found = [part for part in parts_of(config, skip) if is_object(part)]
    if safe_mode and (code := code_of(config, skip)):
        raise UnsafeFileError(file, code)
    unknown = [title_of(part) for part in found if not _is_known(part, custom_objects or {}, legacy)]
    if unknown:
        raise UnknownClassError(file, list(dict.fromkeys(unknown)))
    for part in found:
        _check_array(part, file)


def _check_array(part: Mapping[str, Any], file: str) -> None:
    array = part["config"] if part["class_name"] in ("__numpy__", "__tensor__") else {}
    dtype = array.get("dtype", "float32") if isinstance(array, dict) else None
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UnreadableFileError(
            file, f"an array in its config has the dtype {str(dtype)[:100]!r}, which is not Keras'"
        )


def _is_known(part: Mapping[str, Any], given: Mapping[str, Any], legacy: bool) -> bool:
    """Tell whether what Keras would make of a part of a config is known, by the names that Keras looks at."""
    class_name, module = part["class_name"], part.get("module")
    if class_name == "__lambda__" or (isinstance(class_name, str) and class_name in _VALUES):
        return True
    name = class_name
    registered = part.get("registered_name", class_name)
    if class_name == "function":
        name = registered = part["config"]
    elif class_name == "__typespec__":
        name = part.get("spec_name")
    if _is_registered(registered, given):
        return True
    if not isinstance(name, str):
        return False
    if module is None and ("module" not in part or legacy):
        # Keras looks it up among its own alone.
        return not legacy or _is_registered(name, given) or _is_public_class(name)
    if not isinstance(module, str):
        return False
    if class_name == "function" and module == "builtins":
        # A function of Keras by its bare name, or one that is registered, as Keras 3.6 wrote it.
        return "." not in name and name not in _LOADERS
    return _is_kerass_own(f"{module}.{name}") or _is_inside(module, name)


def _is_registered(name: Any, given: Mapping[str, Any]) -> bool:
    return isinstance(name, str) and keras.saving.get_registered_object(name, dict(given)) is not None


def _is_kerass_own(public: str) -> bool:
    """Tell whether a public name of Keras is a class' that configs are for, or a function's that layers take."""
    module, _, name = public.rpartition(".")
    if module.partition(".")[0] != "keras":
        return False
    if module in _FUNCTIONS and name not in _LOADERS:
        return True
    return _is_class(public)


def _is_class(public: str) -> bool:
    found: Any = sys.modules["keras"]
    for part in public.split(".")[1:]:
        found = vars(found).get(part) if inspect.ismodule(found) else None
    return inspect.isclass(found) and hasattr(found, "from_config")


def _is_public_class(name: str) -> bool:
    spaces = ("layers", "models", "optimizers", "optimizers.schedules", "losses", "metrics", "initializers")
    return name == "Functional" or any(
        _is_class(f"keras.{space}.{name}") for space in (*spaces, "regularizers", "constraints", "dtype_policies")
    )


def _is_inside(module: str, name: str) -> bool:
    """Tell whether `name` is a class of a module of Keras or KerasHub that is there already: none is imported."""
    package = module.partition(".")[0]
    if package == "keras_hub" and package not in sys.modules:
        try:
            importlib.import_module("keras_hub")
        except ImportError:
            return False
    there = sys.modules.get(module) if package in ("keras", "keras_hub") else None
    found = vars(there).get(name) if there is not None else None
    # Not what such a module has imported for itself.
    own = inspect.isclass(found) and found.__module__.partition(".")[0] in ("keras", "keras_hub")
    return own and hasattr(found, "from_config")

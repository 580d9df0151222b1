"""What a model's config names: hooks with their plugins, classes and functions."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kwrap_files._problems import BadFileError

__all__ = ["SavedHook", "code_of", "foreign_classes_of", "format_of", "hooks_of", "is_object", "parts_of", "title_of"]

WRAPPER, HOOKED = _OWN = ("kwrap>Wrapper", "kwrap>Hooked")
# Layers that unpickle, or run a program of TensorFlow; Keras refuses them in safe mode, too.
_CODE = ("TFSMLayer", "TorchModuleWrapper")


@dataclass(frozen=True, kw_only=True)
class SavedHook:
    """A hook in a file: `path` is its layer's place, `plugin` None for a user's own, `record` what the file says."""

    path: str
    hook: str
    version: int
    plugin: str | None
    plugin_version: str | None
    options: Mapping[str, Any]
    effect: Mapping[str, Any] | None
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The hook's name on its layer."""
        return str(self.options.get("name") or self.hook)

    @property
    def without_it(self) -> str:
        """What the model is without the hook, as far as the file tells."""
        effect = self.effect
        methods = effect.get("methods") if isinstance(effect, Mapping) else None
        if not isinstance(effect, Mapping) or not isinstance(methods, list):
            return "outputs may change: the file does not say what the hook acts on"
        if self.changes_output:
            return "the shape of outputs changes: the hook's is another than its layer's"
        observes = effect.get("observes") is True
        known = [method for method in _ACTS_ON if method in methods]
        acting = [method for method in known if method == "constrain" or not observes]
        acts = " and ".join(_ACTS_ON[method] for method in acting)
        if not acting:
            return f"outputs stay: the hook {'only observes' if known else 'acts on nothing'}"
        if acting == ["constrain"] or self.options.get("phase") == "training":
            return f"outputs stay, further training changes: the hook acts on {acts} in training"
        acts = " and ".join(_ACTS_ON[method] for method in acting if method != "constrain")
        return f"outputs may change: the hook acts on {acts}"

    @property
    def changes_output(self) -> bool:
        """Whether the layer's output has another shape or dtype with the hook, as far as the file tells."""
        return isinstance(self.effect, Mapping) and self.effect.get("changes_output") is True


_ACTS_ON = {"call": "activations", "parametrize": "weights as read", "constrain": "weights as stored"}


def parts_of(config: Any, skip: Container[int] = ()) -> Iterator[dict[str, Any]]:
    """Yield every JSON object in a config, parents first, in the file's order; however deep.

    Those whose id is in `skip` are left out, with all that they hold.
    """
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and id(part) not in skip:
            yield part
            waiting.extend(reversed(part.values()))
        elif isinstance(part, list):
            waiting.extend(reversed(part))


def is_object(part: Mapping[str, Any]) -> bool:
    """Return whether Keras makes an object of a part of a config, or looks a function up."""
    return "class_name" in part and "config" in part


def hooks_of(config: Any) -> list[SavedHook]:
    """Return the hooks in a config, in the file's order.

    Raises:
        BadFileError: what should be the record of a hook is none.
    """
    hooks = []
    for part in parts_of(config):
        if "class_name" in part and isinstance(inner := part.get("config"), dict):
            # As Keras looks a class up.
            name = part.get("registered_name", part["class_name"])
            if name == WRAPPER:
                hooks += _hooks_at(inner)
            elif name == HOOKED:
                for place in _listed(inner, "hooks"):
                    hooks += _hooks_at(place)
    return hooks


def format_of(config: Any) -> int | None:
    """Return the format in which kwrap wrote its part of a config; None where there is none."""
    own = [
        part for part in parts_of(config) if part.get("registered_name", part.get("class_name")) in (WRAPPER, HOOKED)
    ]
    formats = [part["config"].get("format", 1) for part in own if isinstance(part.get("config"), dict)]
    return max((one for one in formats if isinstance(one, int)), default=None)


def code_of(config: Any, skip: Container[int] = ()) -> list[str]:
    """Return what in a config is code: it would be unpickled, or run as a program of Python or TensorFlow."""
    found = []
    for part in parts_of(config, skip):
        name = part.get("class_name")
        if name == "__lambda__":
            found.append("a lambda")
        elif isinstance(name, str) and (own := name.rpartition(".")[2]) in _CODE:  # Keras takes "layers.TFSMLayer", too
            found.append(own)
    return list(dict.fromkeys(found))


def foreign_classes_of(config: Any) -> list[str]:
    """Return the classes and functions that a config names and that are no modules' of Keras or of kwrap itself."""
    named = [part for part in parts_of(config) if is_object(part) and "module" in part]
    own = ("keras", "kwrap", "builtins")
    return sorted({title_of(part) for part in named if str(part["module"]).partition(".")[0] not in own})


def title_of(part: Mapping[str, Any]) -> str:
    """Return the name of the class or function that a part of a config stands for."""
    name = part["config"] if part["class_name"] == "function" else part["class_name"]
    module = part.get("module")
    return f"{module}.{name}"[:200] if module else f"{part.get('registered_name') or name}"[:200]


def _hooks_at(place: Any) -> list[SavedHook]:
    path = _typed(place, "path", str)
    return [_saved_hook(path, record) for record in _listed(place, "hooks")]


def _listed(holder: Any, key: str) -> list[Any]:
    listed: list[Any] = _typed(holder, key, list)
    return listed


def _saved_hook(path: str, record: Any) -> SavedHook:
    options = _typed(record, "config", dict)
    return SavedHook(
        path=path,
        hook=_typed(record, "hook", str),
        version=_typed(record, "version", int),
        plugin=_typed(record, "plugin", str, type(None)),
        plugin_version=_typed(record, "plugin_version", str, type(None)),
        options=options,
        effect=record.get("effect"),
        record=record,
    )


def _typed(holder: Any, key: str, *kinds: type) -> Any:
    value = holder.get(key) if isinstance(holder, dict) else None
    known = isinstance(holder, dict) and (key in holder or type(None) in kinds)
    if not known or not isinstance(value, kinds):
        raise BadFileError(f"a record of hooks in it is damaged: {key!r} is {str(value)[:100]!r}")
    return value

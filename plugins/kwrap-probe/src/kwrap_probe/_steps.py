"""ProbeSteps: of the steps of `fit`, those that measure nothing run without probes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

import kwrap
from kwrap_probe._find import hooks_on
from kwrap_probe._hook import Probe
from kwrap_probe._step import step

__all__ = ["ProbeSteps"]


class ProbeSteps(keras.callbacks.Callback):
    """Let probes measure whole steps of `fit`, and cost nothing in the others.

    With it, a probe's `every` counts steps of the epoch: the first is measured, and of so many one, each call of the
    layer in it. `fit` has a train function for these, and one for the others, which is traced without probes, and so
    each is traced, and compiled by XLA, by itself: once, if each `fit` gets the same callback. Without the callback,
    and outside of `fit`, probes count calls.

    With `steps_per_execution=n`, n steps are measured or none, and `every` counts executions.
    """

    def __init__(self) -> None:
        super().__init__()
        self._function: _TrainFunction | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Look for probes.

        Raises:
            AbsentHookError: no Probe is on the model.
        """
        hooks_on(self.model, Probe)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the train function in the place of Keras', unless probes were taken off meanwhile."""
        plain = self.model.train_function
        if isinstance(plain, _TrainFunction):  # an exception has ended an epoch between two steps
            plain = plain.plain
        if plain is None or not kwrap.find_hooks(self.model, Probe):
            return
        if self._function is None or self._function.plain is not plain:  # Keras makes another where the model changes
            self._function = _TrainFunction(self.model, plain)
        self._function.begin()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put Keras' back."""
        if self._function is not None:
            self._function.end()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Put Keras' back, if another callback has kept this one's."""
        self.on_epoch_end(0)


class _TrainFunction:
    """A train function of a model that is traced once for each set of probes that are due together.

    Attributes:
        plain: Keras' own.
    """

    def __init__(self, model: keras.Model, plain: Callable[..., Any]) -> None:
        self.plain = plain
        self._model = model
        self._everys = sorted({probe.every for _, probe in hooks_on(model, Probe)})
        self._traced: dict[tuple[bool, ...], Callable[..., Any]] = {}
        self._count = 0

    def begin(self) -> None:
        self._count = 0
        self._model.train_function = self

    def end(self) -> None:
        if self._model.train_function is self:  # and not what was made anew meanwhile
            self._model.train_function = self.plain

    def __call__(self, iterator: Any) -> Any:
        due = tuple(self._count % every == 0 for every in self._everys)
        self._count += 1
        try:
            if due not in self._traced:
                self._traced[due] = _made(self._model, dict(zip(self._everys, due, strict=True)))
            return self._traced[due](iterator)
        except BaseException:
            self.end()
            raise


def _made(model: keras.Model, due: Mapping[int, bool]) -> Callable[..., Any]:
    """Return a train function of a model, of whose steps probes are told whether they measure them."""
    there, own = model.train_function, vars(model).get("train_step")

    def told(train_step: Callable[..., Any], data: Any) -> Any:
        with step(due):
            return train_step(data)

    model.train_function, model.train_step = None, functools.partial(told, model.train_step)
    try:
        model.make_train_function()
        made: Callable[..., Any] = model.train_function
        return made
    finally:
        model.train_function = there
        if own is None:
            del model.train_step
        else:
            model.train_step = own

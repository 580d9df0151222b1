"""ProbeSteps: of the steps of `fit`, those that measure nothing run without probes."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from kwrap_probe._find import hooks_on
from kwrap_probe._hook import Probe
from kwrap_probe._turn import Step
from kwrap_probe._watch import function_graph

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
        """Put the train function in the place of Keras'."""
        plain = self.model.train_function
        if isinstance(plain, _TrainFunction):  # an exception of another callback ended an epoch
            plain = plain.plain
        if self._function is None or self._function.plain is not plain:  # Keras makes another where the model changes
            self._function = _TrainFunction(self.model, plain)
        self._function.begin()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put Keras' back."""
        if self._function is not None:
            self._function.end()


class _TrainFunction:
    """A train function of a model that is traced once for each set of probes that are due together.

    Attributes:
        plain: Keras' own.
    """

    def __init__(self, model: keras.Model, plain: Callable[..., Any]) -> None:
        self.plain = plain
        self._model = model
        self._step = Step()
        self._traced: dict[frozenset[int], Callable[..., Any]] = {}
        self._count = 0
        probes = [probe for _, probe in hooks_on(model, Probe)]
        for probe in probes:
            probe.step = self._step
        self._everys = {probe.every for probe in probes}

    def begin(self) -> None:
        self._count = 0
        self._model.train_function = self

    def end(self) -> None:
        if self._model.train_function is self:  # and not what was made anew meanwhile
            self._model.train_function = self.plain

    def __call__(self, iterator: Any) -> Any:
        due = frozenset(every for every in self._everys if self._count % every == 0)
        self._count += 1
        self._step.due = due
        try:
            return self._of(due)(iterator)
        except StopIteration:  # the data is over, and so is the epoch
            raise
        except BaseException:
            self.end()
            raise
        finally:
            self._step.due = None

    def _of(self, due: frozenset[int]) -> Callable[..., Any]:
        if due not in self._traced:
            with _train_step(self._model, self._in_step):
                self._model.make_train_function(force=True)
            self._traced[due], self._model.train_function = self._model.train_function, self
        return self._traced[due]

    def _in_step(self, train_step: Callable[..., Any], data: Any) -> Any:
        self._step.graph = function_graph()
        return train_step(data)


@contextmanager
def _train_step(model: keras.Model, around: Callable[..., Any]) -> Iterator[None]:
    """Let a model have another `train_step`, which is given the model's own, and data."""
    own = vars(model).get("train_step")
    model.train_step = functools.partial(around, model.train_step)
    try:
        yield
    finally:
        if own is None:
            del model.train_step
        else:
            model.train_step = own

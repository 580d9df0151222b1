"""PruningSchedule: the base of a schedule of one's own, as tfmot has it."""

from typing import Any

import keras

from kwrap_prune._schedules import NO_END, ConstantSparsity, PolynomialDecay, Schedule

__all__ = ["PruningSchedule"]


class PruningSchedule(Schedule):
    """A `Schedule` that is written as tfmot's are; its subclasses are registered with Keras by themselves.

    `get_config` may give the arguments of `__init__`, or, as tfmot's, these beside the name of the class.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(package=cls.__module__, name=cls.__qualname__)(cls)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PruningSchedule":
        """Return the schedule of a config."""
        return cls(**(config["config"] if config.keys() == {"class_name", "config"} else config))

    def _should_prune_in_step(self, step: Any, begin_step: int, end_step: int, frequency: int) -> Any:
        """Return whether `step` is one of those at which masks are computed: what subclasses call for it in tfmot."""
        due, _ = ConstantSparsity(0.0, begin_step, max(end_step, NO_END), frequency)(step)
        return due


PruningSchedule.register(ConstantSparsity)
PruningSchedule.register(PolynomialDecay)

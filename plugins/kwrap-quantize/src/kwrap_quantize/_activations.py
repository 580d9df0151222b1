"""The hooks on the tensors that go through a layer: on what it gives, and on what it takes."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

import kwrap
from kwrap.errors import NoFloatingTensorsError
from kwrap.options import checked_bool, checked_int, checked_number
from kwrap_quantize._errors import TensorCountError
from kwrap_quantize._fake import rounded, usable_range
from kwrap_quantize._modes import observer, ranges_are_constants
from kwrap_quantize._moving import extremes, moved
from kwrap_quantize._options import checked_bits, checked_range

__all__ = ["Activations", "QuantizeInput", "QuantizeOutput", "Range"]

Range = Literal["moving_average", "last", "all_time"] | Sequence[float]


class Activations(kwrap.Hook):
    """Round tensors on their way, with a range for each.

    A range that is not fixed is state: `minimum` and `maximum`, float32, with `seen`, a bool, each a vector with a
    place for every tensor; and `frozen`, a bool.
    """

    what: str

    def __init__(
        self,
        bits: int = 8,
        *,
        range: Range = "moving_average",
        decay: float = 0.999,
        symmetric: bool = False,
        tensors: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = checked_bits(self.hook_name, bits)
        self.range = checked_range(self.hook_name, range)
        self.decay = checked_number(
            self.hook_name, "decay", decay, least=0, below=1, meaning="the share of the old range that stays"
        )
        self.symmetric = checked_bool(self.hook_name, "symmetric", symmetric)
        self.tensors = checked_int(self.hook_name, "tensors", tensors)

    @property
    def fixed(self) -> tuple[float, float] | None:
        """The range that is given as an option; None: ranges are state."""
        return None if isinstance(self.range, str) else self.range

    @property
    def moves(self) -> bool:
        """Whether its ranges are state, and not fixed."""
        return self.fixed is None

    def build(self, layer: keras.Layer) -> None:
        """Create the ranges."""
        if not self.moves:
            return
        # Not "mean": what is assigned is of all replicas already, and the same in each.
        kind = {"trainable": False, "autocast": False, "initializer": "zeros", "aggregation": "only_first_replica"}
        shape = (self.tensors,)
        self.minimum = self.add_weight(shape=shape, dtype="float32", name="minimum", **kind)
        self.maximum = self.add_weight(shape=shape, dtype="float32", name="maximum", **kind)
        self.seen = self.add_weight(shape=shape, dtype="bool", name="seen", **kind)
        self.frozen = self.add_weight(shape=(), dtype="bool", name="frozen", **kind)

    def initialize(self, layer: keras.Layer) -> None:
        """Begin with nothing seen."""
        if self.moves:
            for variable in (self.minimum, self.maximum, self.seen, self.frozen):
                variable.assign(keras.ops.zeros(variable.shape, variable.dtype))

    def rounded(self, tensors: Any, training: Any) -> Any:
        """Return nested `tensors`, those that are floating rounded; ranges move in training.

        Raises:
            NoFloatingTensorsError: none is floating.
            TensorCountError: there are more or fewer than the hook has ranges for.
        """
        leaves = keras.tree.flatten(tensors)
        if self.in_trial and any(isinstance(leaf, tf.SparseTensor) for leaf in leaves):
            return tensors  # Keras' graph takes `x * 2.0` for sparse; when it is called it is not
        floating = [leaf for leaf in leaves if _is_floating(leaf)]
        if not floating:
            raise NoFloatingTensorsError(self.name, self.path, self.what)
        if len(floating) != self.tensors:
            raise TensorCountError(self.name, self.path, self.what, len(floating), self.tensors)
        look = observer()
        if look is not None:
            look(self, floating)
            return tensors
        results = iter(self._rounded(floating, training))
        return keras.tree.map_structure(lambda leaf: next(results) if _is_floating(leaf) else leaf, tensors)

    def _rounded(self, tensors: Sequence[Any], training: Any) -> list[Any]:
        if self.fixed is not None:
            low, high = (tf.constant(end, tf.float32) for end in self.fixed)
            return [self._on_grid(tensor, low, high) for tensor in tensors]
        if training:
            low, high = self._move(tensors)
        elif ranges_are_constants():
            with tf.init_scope():  # out of the graph that is traced
                ends = [keras.ops.convert_to_numpy(end.value) for end in (self.minimum, self.maximum)]
            low, high = map(tf.constant, ends)
        else:
            low, high, seen = (tf.convert_to_tensor(end.value) for end in (self.minimum, self.maximum, self.seen))
            return [
                tf.cond(
                    seen[place],
                    lambda tensor=tensor, place=place: self._on_grid(tensor, low[place], high[place]),
                    lambda tensor=tensor: tf.identity(tensor),
                )
                for place, tensor in enumerate(tensors)
            ]
        return [self._on_grid(tensor, low[place], high[place]) for place, tensor in enumerate(tensors)]

    def _on_grid(self, tensor: Any, low: Any, high: Any) -> Any:
        return rounded(tensor, *usable_range(low, high, self.bits, self.symmetric), bits=self.bits)

    def _move(self, tensors: Sequence[Any]) -> tuple[Any, Any]:
        """Move the ranges to what is seen now, unless they are frozen or it is not finite; return them."""
        low, high = extremes(tensors)
        old_low, old_high, seen, frozen = (
            tf.convert_to_tensor(each.value) for each in (self.minimum, self.maximum, self.seen, self.frozen)
        )
        moves = tf.logical_and(tf.math.is_finite(low) & tf.math.is_finite(high), tf.logical_not(frozen))
        low = moved(str(self.range), self.decay, old_low, low, seen, upper=False)
        high = moved(str(self.range), self.decay, old_high, high, seen, upper=True)
        low, high = tf.where(moves, low, old_low), tf.where(moves, high, old_high)
        self.minimum.assign(low)
        self.maximum.assign(high)
        self.seen.assign(tf.logical_or(seen, moves))
        return low, high


@kwrap.hook(layer_type=keras.layers.Layer)
class QuantizeOutput(Activations):
    """Round all floating outputs of a layer to a grid, each with a range of its own, in training and at inference.

    Values beyond the range are clipped, and zero is on the grid, exactly. Gradients are those of clipping (Jacob et al.
    2018, https://arxiv.org/abs/1712.05877). Ranges move in training, before they are used, and equally on all
    replicas; or `calibrate` finds them. A batch with NaN or infinite values does not move them. Until they have seen
    something, inference passes values on as they are. They are saved with the model.

    A layer that is called several times in a step has one range, which moves at each call: give it "all_time", as
    `quantize` does; with the others the first call, or the last, decides, and the rest is clipped.

    Args:
        bits: of each value, from 2 to 16.
        range: how it moves: "moving_average" of the extremes of batches, where the first batch sets it; "last": those
            of the last batch; "all_time": the widest so far. Or fixed: (minimum, maximum), with zero between them.
        decay: of the moving average: the share of the old range that stays.
        symmetric: whether the range reaches as far below zero as above, as LiteRT has it for 16 bits.
        tensors: how many floating tensors there are: more than one where a layer gives several, such as an LSTM with
            its states.

    Raises:
        OptionValueError: an option has a value that it cannot have.
        NoFloatingTensorsError: the layer gives no floating tensor.
        TensorCountError: it gives more or fewer than `tensors`.
    """

    what = "outputs"

    def call(self, call_next: Callable[..., Any], inputs: Any, *, training: Any) -> Any:
        """Return the layer's outputs on the grid."""
        return self.rounded(call_next(inputs), training)


@kwrap.hook(layer_type=keras.layers.Layer)
class QuantizeInput(Activations):
    """Round what a layer takes first to a grid, as `QuantizeOutput` does what a layer gives.

    For a model's own inputs, of which no layer is the giver. Of a list or a dict all floating tensors are rounded, each
    with a range of its own. All else is as with `QuantizeOutput`.

    Args:
        bits: of each value, from 2 to 16.
        range: how it moves: "moving_average", "last", "all_time", or fixed: (minimum, maximum).
        decay: of the moving average: the share of the old range that stays.
        symmetric: whether the range reaches as far below zero as above.
        tensors: how many floating tensors the layer takes first: of a layer that takes a list, such as Add, several.

    Raises:
        OptionValueError: an option has a value that it cannot have.
        NoFloatingTensorsError: the layer takes no floating tensor first.
        TensorCountError: it takes more or fewer than `tensors`.
    """

    what = "inputs"

    def call(self, call_next: Callable[..., Any], inputs: Any, *, training: Any) -> Any:
        """Return the layer's outputs of inputs on the grid."""
        return call_next(self.rounded(inputs, training))


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, tf.Tensor) and bool(leaf.dtype.is_floating)

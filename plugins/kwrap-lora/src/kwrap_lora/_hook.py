"""The hook of LoRA."""

import math
from typing import Any

import keras

import kwrap
from kwrap.errors import TargetError
from kwrap.options import checked_bool, checked_int, checked_number
from kwrap_lora._options import (
    checked_initializer,
    matrix_shape,
    rank_problem,
)

__all__ = ["LoRA"]


@kwrap.hook(layer_type=keras.layers.Layer, name="lora")
class LoRA(kwrap.Hook):
    """Train a product of two small matrices beside each weight of a layer, which is frozen (Hu et al. 2021).

    Of the weight's matrix W, (inputs, outputs), the layer reads W + alpha / rank * A B, with A of shape (inputs, rank)
    and B of shape (rank, outputs). A and B train; W does not while the hook is on, and stays as it is until it is taken
    off: with the product merged into it, or (`merge=False`) to the bit as it was. B is zero at first, so that the layer
    computes what it did. A and B are float32, also beside weights of float16 or bfloat16, and float64 beside those of
    float64; the sum is made in their dtype.

    Several of them on one layer, each with a `name` of its own, add up, in any order: adapters, to be switched by
    `kwrap_lora.use_adapters`, and written to small files by `kwrap_lora.save_adapter`. `scale`, a float32 variable
    that does not train, is what an adapter's effect is multiplied by: 1 at first, and 0 is off.

    Args:
        rank: of A B; at most that of the weight's matrix, its smaller side.
        alpha: the factor is alpha / rank. Default: the rank, for a factor of 1.
        dropout: the share of the inputs that A leaves out in a step of training: rows of A, drawn anew at each call and
            the same for all examples of a batch; the others are divided by 1 - dropout.
        use_rslora: whether the factor is alpha / sqrt(rank) instead (Kalajdzievski 2023).
        use_dora: whether each column's norm, its magnitude, is trained by itself, and A B its direction alone (Liu et
            al. 2024): the layer reads m * V / ||V|| with V = W + alpha / rank * A B, and m at first the norms of
            W's columns, as they are stored. As in the paper's section 4.3 no gradient goes through ||V||. A column of
            zeros stays zero. Such adapters do not add up.
        a_initializer: of A, a name or an initializer of Keras. One with a seed is the same for all weights of a shape.
        b_initializer: of B.

    Raises:
        OptionValueError: an option has a value that it cannot have.
        TargetError: a weight's matrix has a lower rank, or the layer no weights that are known. (`wrap_model` tells the
            first of all layers at once, by a PlanError.)
    """

    freezes = True

    def __init__(
        self,
        rank: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        *,
        use_rslora: bool = False,
        use_dora: bool = False,
        a_initializer: str | keras.initializers.Initializer = "he_uniform",
        b_initializer: str | keras.initializers.Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rank = checked_int(self.hook_name, "rank", rank)
        self.alpha = None if alpha is None else checked_number(self.hook_name, "alpha", alpha, above=0)
        self.dropout = checked_number(
            self.hook_name, "dropout", dropout, least=0, below=1, meaning="the share of inputs that are dropped"
        )
        self.use_rslora = checked_bool(self.hook_name, "use_rslora", use_rslora)
        self.use_dora = checked_bool(self.hook_name, "use_dora", use_dora)
        self.a_initializer = checked_initializer("a_initializer", a_initializer)
        self.b_initializer = checked_initializer("b_initializer", b_initializer)
        # By target and letter. Past Keras' tracking, which has the variables already.
        self.__dict__["_parts"] = {}
        self.__dict__["_firsts"] = {}

    @property
    def factor(self) -> float:
        """What A B is multiplied by, apart from `scale`."""
        alpha = self.rank if self.alpha is None else self.alpha
        return float(alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank))

    @property
    def additive(self) -> bool:
        """Whether what is added to a weight does not depend on it, so that adapters may change places."""
        return not self.use_dora

    def parts(self, target: kwrap.WeightTarget) -> dict[str, keras.Variable]:
        """Return the variables that train beside a weight: "a" and "b", and with DoRA "magnitude" (outputs,)."""
        return dict(self._parts[target.name])

    def build(self, layer: keras.Layer) -> None:
        """Create A and B for each target, with DoRA its magnitudes, and the scale."""
        if not self.target_weights:
            self._check_untaught(layer)
            return
        for target in self.target_weights:
            if problem := rank_problem(self.rank, target):
                raise TargetError(f"hook {self.name!r} at {self.path!r}: {problem}")
        for target in self.target_weights:
            inputs, outputs = matrix_shape(target)
            shapes: dict[str, tuple[int, ...]] = {"a": (inputs, self.rank), "b": (self.rank, outputs)}
            if self.use_dora:
                shapes["magnitude"] = (outputs,)
            dtype = "float64" if target.dtype == "float64" else "float32"
            self._parts[target.name] = {
                part: self.add_weight(
                    shape, "zeros", dtype, autocast=False, name=f"{target.name}_{part}".replace("/", "_")
                )
                for part, shape in shapes.items()
            }
            # Of its own: one that was given no seed has drawn one, and gives the same whenever it is asked again.
            self._firsts[target.name] = {"a": self.a_initializer.clone(), "b": self.b_initializer.clone()}
        self.scale = self.add_weight(
            (), "ones", "float32", trainable=False, autocast=False, aggregation="only_first_replica", name="scale"
        )
        if self.dropout:
            self.generator = keras.random.SeedGenerator()

    def _check_untaught(self, layer: keras.Layer) -> None:
        if layer.weights and not kwrap.weight_targets(layer):
            raise TargetError(
                f"hook {self.name!r} at {self.path!r}: nobody says beside which of its weights to train. If they are "
                "those of layers that it holds, put the hook on these: kwrap.wrap_model(model, ...); else teach its "
                f"class: @kwrap.weight_targets.register({type(layer).__name__})"
            )

    def initialize(self, layer: keras.Layer) -> None:
        """Draw A and B, and take the magnitudes of DoRA from the weights."""
        for target in self.target_weights:
            parts = self._parts[target.name]
            for part, first in self._firsts[target.name].items():
                parts[part].assign(first(parts[part].shape, dtype=parts[part].dtype))
            if self.use_dora:
                matrix = target.as_matrix(keras.ops.cast(target.variable.value, parts["magnitude"].dtype))
                parts["magnitude"].assign(_norms(matrix))

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value` with the adapter's effect; gradients go to A, B and the magnitudes."""
        parts = self._parts[target.name]
        a, b = parts["a"].value, parts["b"].value
        wide, scale = keras.ops.cast(value, a.dtype), keras.ops.cast(self.scale.value, a.dtype)
        if training and self.dropout:
            a = keras.random.dropout(a, self.dropout, noise_shape=(a.shape[0], 1), seed=self.generator)
        if self.use_dora:
            change = target.from_matrix(
                _turned(target.as_matrix(wide), (self.factor * a) @ b, parts["magnitude"].value)
            )
            wide = wide + scale * (change - wide)
        else:
            wide = wide + target.from_matrix((self.factor * scale * a) @ b)
        return keras.ops.cast(wide, value.dtype)


def _turned(matrix: Any, change: Any, magnitude: Any) -> Any:
    """Return DoRA's matrix: the columns of `matrix + change`, each with its magnitude as its norm."""
    direction = matrix + change
    norms = keras.ops.stop_gradient(_norms(direction))
    return direction * (magnitude / keras.ops.where(norms == 0, 1, norms))


def _norms(matrix: Any) -> Any:
    """Return the Euclidean norm of each column."""
    return keras.ops.sqrt(keras.ops.sum(keras.ops.square(matrix), axis=0))

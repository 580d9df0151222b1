"""What hooks and kernels ask of a GPU, by TensorFlow's list of its kernels, which its wheel for CPUs has, too.

An op without a kernel for GPUs, or one that takes its tensors in host memory, as those of arithmetic on int32 do, works
on a GPU as well: TensorFlow copies what it needs there and back. For a weight that is slow.
"""

from collections.abc import Callable
from typing import Any

import keras
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

import kwrap
from kwrap._kernel import all_ops
from kwrap_lora import LoRA
from kwrap_noise import DropConnect, DropPath, Noise, WeightNoise
from kwrap_norm import SpectralNorm, UnitNorm, WeightNorm, WeightStandardization
from kwrap_probe import NaNGuard, Probe
from kwrap_prune import ConstantSparsity, CosineDecay, PolynomialDecay, Prune, lowest, lowest_of_groups
from kwrap_prune._update import Timing, update_of_magnitudes
from kwrap_quantize import QuantizeInput, QuantizeOutput, QuantizeWeights

LARGE = 4000  # elements; histograms have 2,048
SCHEDULES = [PolynomialDecay(0.0, 0.5, 0, 100), CosineDecay(0.0, 0.5, 0, 100), ConstantSparsity(0.5, 0)]
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
HOOKS: dict[str, Callable[[], kwrap.Hook]] = {
    "Prune": Prune,
    "Prune, regrow": lambda: Prune(regrow=True),
    "Prune, blocks": lambda: Prune(block_size=(2, 2)),
    "LoRA": lambda: LoRA(2, dropout=0.1),
    "Noise": lambda: Noise(0.1),
    "WeightNoise": lambda: WeightNoise(0.1),
    "DropConnect": lambda: DropConnect(0.1),
    "DropPath": lambda: DropPath(0.1),
    **{each.__name__: each for each in (SpectralNorm, UnitNorm, WeightNorm, WeightStandardization)},
    "Probe": Probe,
    "Probe, all": lambda: Probe(sample=None),
    "NaNGuard": NaNGuard,
    **{each.__name__: each for each in (QuantizeInput, QuantizeOutput, QuantizeWeights)},
}
NO_KERNELS = ("Placeholder", "PartitionedCall", "StatefulPartitionedCall")  # what places no tensor by itself


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_a_training_step_leaves_weights_and_batches_on_the_gpu(hook):
    layers = [keras.layers.Conv2D(64, 3), keras.layers.Flatten(), keras.layers.Dense(LARGE)]
    model = keras.Sequential([keras.Input((4, 4, 8)), *layers])
    kwrap.wrap_model(model, hook(), exclude="flatten*")
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    batch = tf.zeros([40, 4, 4, 8]), tf.zeros([40, LARGE])
    graph = tf.function(model.train_step).get_concrete_function(batch).graph
    assert without_kernel(graph, "GPU") == set()
    assert in_host_memory(graph) == set()


@DTYPES
@pytest.mark.parametrize("jit_compile", [False, True])
def test_every_op_of_pruning_has_a_kernel_for_gpus_and_for_xla(dtype, jit_compile):
    scores = tf.zeros([8], dtype)
    updates = [update_of_magnitudes(Timing(each, 1), regrow) for each in SCHEDULES for regrow in (False, True)]

    @tf.function(jit_compile=jit_compile)
    def all_kernels():
        updated = [update(scores, tf.ones([8], tf.bool), 1) for update in updates]
        return lowest(scores, 2), lowest_of_groups(scores, 4, 2), updated

    graph = all_kernels.get_concrete_function().graph
    assert len(list(all_ops(graph))) > 50
    for device in ("XLA_CPU_JIT", "XLA_GPU_JIT") if jit_compile else ("CPU", "GPU"):
        assert without_kernel(graph, device) == set()


@DTYPES
def test_masks_are_computed_on_the_gpu(dtype):
    updates = [update_of_magnitudes(Timing(SCHEDULES[0], 1), regrow) for regrow in (False, True)]

    @tf.function(input_signature=[tf.TensorSpec([LARGE], dtype), tf.TensorSpec([LARGE], tf.bool)])
    def all_kernels(scores, mask):
        return lowest(scores, 2), lowest_of_groups(scores, 4, 2), [update(scores, mask, 1) for update in updates]

    of_places_in_a_group = {
        ("Range", "output", "int32", None),
        ("Less", "y", "int32", None),
        ("Less", "z", "bool", None),
    }
    assert in_host_memory(all_kernels.get_concrete_function().graph) == of_places_in_a_group


def without_kernel(graph: tf.Graph, device: str) -> set[str]:
    """Return the types of ops that have no kernel for a device."""
    return {op.type for op in all_ops(graph) if op.type not in NO_KERNELS and not kernels_of(op, device)}


def in_host_memory(graph: tf.Graph) -> set[tuple[str, str, str, int | None]]:
    """Return the large tensors that ops on a GPU have in host memory: op, argument, dtype, size; of no size, too."""
    return {
        (op.type, argument.name, tensor.dtype.name, tensor.shape.num_elements())
        for op in all_ops(graph)
        for kernel in kernels_of(op, "GPU")
        for arguments, tensors in ((op.op_def.input_arg, op.inputs), (op.op_def.output_arg, op.outputs))
        if len(arguments) == len(tensors)  # of no list
        for argument, tensor in zip(arguments, tensors, strict=True)
        if argument.name in kernel.host_memory_arg and tensor.shape.num_elements() not in range(LARGE)
    }


def kernels_of(op: tf.Operation, device: str) -> list[Any]:
    """Return TensorFlow's kernels of an op for a device."""
    return [
        kernel
        for kernel in kernels.get_registered_kernels_for_op(op.type).kernel
        if kernel.device_type in (device, "DEFAULT")
        and all(
            op.get_attr(limit.name) in map(tf.as_dtype, limit.allowed_values.list.type) for limit in kernel.constraint
        )
    ]

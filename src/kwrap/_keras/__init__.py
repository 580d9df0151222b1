"""Every private thing of Keras that kwrap touches: each with its reason, and a test in tests/test_keras.py.

Checked against Keras 3.15. Nothing else in kwrap imports `keras.src` or reads an underscore name of a Keras object.
"""

from keras.src.backend import AutocastScope, get_keras_mask
from keras.src.backend.common.keras_tensor import any_symbolic_tensors
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

# The only cell of Keras that is not public.
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell
from keras.src.models.functional import Functional, functional_like_constructor

# What TensorFlow keeps of what becomes an attribute of a layer, and makes of lists, dicts and tuples past Keras' own
# tracking.
from tensorflow.python.trackable.base import TrackableReference
from tensorflow.python.trackable.data_structures import ListWrapper
from tensorflow.python.trackable.data_structures import _DictWrapper as DictProxy
from tensorflow.python.trackable.data_structures import _TupleWrapper as TupleProxy

from kwrap._keras import _compiled, _files, _graph, _layer
from kwrap._keras._compiled import *  # noqa: F403 - one door to them all
from kwrap._keras._files import *  # noqa: F403
from kwrap._keras._graph import *  # noqa: F403
from kwrap._keras._layer import *  # noqa: F403

__all__ = [
    "AutocastScope",
    "ConvLSTMCell",
    "DictProxy",
    "Functional",
    "ListWrapper",
    "TrackableReference",
    "TupleProxy",
    "any_symbolic_tensors",
    "functional_like_constructor",
    "get_keras_mask",
    "get_stateless_scope",
    "in_symbolic_scope",
]
__all__ += _compiled.__all__
__all__ += _files.__all__
__all__ += _graph.__all__
__all__ += _layer.__all__

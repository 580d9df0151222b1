import numpy as np
import pytest
import tensorflow as tf

from kwrap_probe._turn import START, is_due, next_turn


def measured(every: int, calls: int) -> np.ndarray:
    """Return which of so many calls are measured."""

    @tf.function(autograph=False)
    def run():
        def call(turn, place, due):
            turn = next_turn(turn, every)
            return turn, place + 1, due.write(place, is_due(turn, every))

        due = tf.TensorArray(tf.bool, calls)
        return tf.while_loop(lambda turn, place, due: place < calls, call, (START, 0, due))[2].stack()

    return np.flatnonzero(run())


@pytest.mark.parametrize("every", [1, 2, 3, 7, 10, 100])
def test_calls_are_measured_so_many_or_one_more_apart_from_the_first_on(every):
    found = measured(every, 3000)
    assert found[:2].tolist() == [0, every]
    assert set(np.diff(found)) <= {every, every + 1}
    assert 3000 / every / 1.02 - 1 <= len(found) <= 3000 / every + 1


@pytest.mark.parametrize("every", [2, 3, 10])
@pytest.mark.parametrize("calls", [2, 3, 4, 5, 8, 10, 12, 20, 32])
def test_of_a_layer_called_several_times_a_step_each_call_is_measured_as_often(every, calls):
    found = measured(every, 1000 * every * calls)
    counts = np.bincount(found % calls, minlength=calls)
    assert counts.min() > 0.9 * counts.mean()


def test_all_calls_are_measured_where_each_is_asked_for_and_few_where_few_are():
    assert measured(1, 50).tolist() == list(range(50))
    assert measured(10**12, 1000).tolist() == [0]

"""What a hook adds to an eager call of one layer: python benchmarks/eager.py [--quick]."""

import sys

import keras
from measure import TARGETS, interleaved, ratio, table, target
from models import Nothing, pass_on

import kwrap

CALLS = 100


def main() -> None:
    """Print the table."""
    inputs = keras.ops.ones((32, 16))
    layers = {"bare": keras.layers.Dense(16), "nothing": keras.layers.Dense(16), "pass on": keras.layers.Dense(16)}
    for layer in layers.values():
        layer(inputs)
    layers["nothing"] = kwrap.Wrapper(layers["nothing"], [Nothing()])
    layers["pass on"] = kwrap.Wrapper(layers["pass on"], [pass_on()])
    ways = {name: lambda layer=layer: [layer(inputs) for _ in range(CALLS)] for name, layer in layers.items()}
    times = interleaved(ways, repeats=5 if "--quick" in sys.argv else 41)
    rows = [
        target(f"a hook that {does}: the wrapped call / the bare call", ratio(times, name, "bare"), 1.2)
        for name, does in (("nothing", "overrides nothing"), ("pass on", "passes the call on"))
    ]
    print(table(TARGETS, rows))


if __name__ == "__main__":
    main()

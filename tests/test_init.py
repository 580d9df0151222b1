import json
import os
import subprocess
import sys
from pathlib import Path

import kwrap

# A name enters with the issue that builds it.
PUBLIC = [
    "Graph",
    "GraphCall",
    "Hook",
    "Kernel",
    "NonFinite",
    "Plan",
    "Problem",
    "Rule",
    "WeightTarget",
    "Wrapper",
    "atomic_write",
    "bypass",
    "check",
    "clone_function",
    "clone_model",
    "collect",
    "errors",
    "find_hooks",
    "find_layers",
    "hook",
    "hookimpl",
    "hookspecs",
    "is_jit_compiled",
    "kernel",
    "load_model",
    "options",
    "plan",
    "plugins",
    "read_graph",
    "registered",
    "save_model",
    "tables",
    "testing",
    "unwrap_model",
    "use",
    "weight_targets",
    "wrap_model",
]

# The last look shows that the plugin would have been seen, had it been loaded.
IN_A_NEW_PROCESS = """
import json, sys
import kwrap
after_import = [name for name in ("a_plugin", "pytest", "kwrap.testing") if name in sys.modules]
kwrap.testing.HookSuite
pytest = "pytest" in sys.modules
import keras
wrapper = keras.saving.get_registered_object("kwrap>Wrapper") is kwrap.Wrapper
names = [hook.name for hook in kwrap.registered()]
print(json.dumps([after_import, pytest, "a_plugin" in sys.modules, names, wrapper]))
"""

PLUGIN = """
import keras, kwrap

@kwrap.hook(layer_type=keras.layers.Dense)
def from_a_plugin(call_next, inputs):
    return call_next(inputs)
"""


def test_the_public_names_are_these_sorted_and_there():
    assert kwrap.__all__ == PUBLIC == sorted(PUBLIC)
    assert [name for name in PUBLIC if not hasattr(kwrap, name)] == []


def test_importing_kwrap_loads_no_plugin_nor_the_test_kit_and_registers_what_keras_needs_to_load_a_wrapped_model(
    tmp_path: Path,
):
    (tmp_path / "a_plugin.py").write_text(PLUGIN)
    metadata = tmp_path / "kwrap_a-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: kwrap-a\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[kwrap]\na = a_plugin\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "KWRAP_PLUGINS": "a"}
    environment.pop("KWRAP_BLOCK", None)
    done = subprocess.run(
        [sys.executable, "-c", IN_A_NEW_PROCESS], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[], False, True, ["from_a_plugin"], True]

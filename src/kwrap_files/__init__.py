"""What the file of a saved model holds, read without Keras or TensorFlow and without running anything of it.

A package beside `kwrap`, for importing kwrap imports Keras: `kwrap inspect` and `kwrap.load_model` both read with it.
"""

from kwrap_files._contents import Contents, open_file, read_contents, read_open
from kwrap_files._needs import (
    SavedHook,
    code_of,
    foreign_classes_of,
    format_of,
    hooks_of,
    is_object,
    parts_of,
    title_of,
)
from kwrap_files._problems import BadFileError, OversizedError, in_bytes
from kwrap_files._text import printable

__all__ = [
    "BadFileError",
    "Contents",
    "OversizedError",
    "SavedHook",
    "code_of",
    "foreign_classes_of",
    "format_of",
    "hooks_of",
    "in_bytes",
    "is_object",
    "open_file",
    "parts_of",
    "printable",
    "read_contents",
    "read_open",
    "title_of",
]

"""Looking at what Keras 3 models do inside, without touching it, as a plugin of kwrap."""

from kwrap_probe._board import TensorBoardWriter
from kwrap_probe._errors import NoFloatingOutputsError, NonFiniteError
from kwrap_probe._guard import FirstNonFinite, NaNGuard, StopOnNonFinite, first_non_finite
from kwrap_probe._hook import Probe
from kwrap_probe._report import Report, Statistics, report
from kwrap_probe._reset import reset
from kwrap_probe._steps import ProbeSteps
from kwrap_probe._tap import FeatureTap
from kwrap_probe._trace import Trace, shapes

__all__ = [
    "FeatureTap",
    "FirstNonFinite",
    "NaNGuard",
    "NoFloatingOutputsError",
    "NonFiniteError",
    "Probe",
    "ProbeSteps",
    "Report",
    "Statistics",
    "StopOnNonFinite",
    "TensorBoardWriter",
    "Trace",
    "first_non_finite",
    "report",
    "reset",
    "shapes",
]

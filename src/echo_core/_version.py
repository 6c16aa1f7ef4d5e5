"""The one place that states the version of Echo Core."""

from common_telemetry.compiled import modules as compiled_modules

__all__ = ["__version__", "compiled_modules"]

__version__ = "0.1.0"

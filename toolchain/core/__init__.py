"""The ground floor: errors, logging, the registry, the store. It knows nothing of models."""

from toolchain.core.telemetry import switch_off

switch_off()

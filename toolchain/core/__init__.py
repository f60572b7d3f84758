"""The ground floor: errors, logging, the registry, the store. It knows nothing of models."""

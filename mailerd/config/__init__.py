"""Configuration: `model` declares it, `load` reads it, `reference` explains it."""

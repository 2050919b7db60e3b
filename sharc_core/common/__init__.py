"""Errors, settings, registries, files, devices and random streams: what every other folder builds on."""

"""Errors, settings, registries, files, devices and random streams. All other folders import from here."""

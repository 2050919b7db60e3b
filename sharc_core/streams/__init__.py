"""Streams: which classes each task holds, and the order in which each seed visits the samples.

Import from the modules: settings.py needs no torch, stream.py does.
"""

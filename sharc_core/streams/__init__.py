"""Streams: which classes each task holds, and the order in which each seed sees the samples."""

from sharc_core.streams.stream import Stream, make_stream, split_classes

__all__ = ["Stream", "make_stream", "split_classes"]

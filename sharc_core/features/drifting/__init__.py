"""Features of a network whose batch norms stay in train mode while the head learns from the stream.

They depend on the order of the stream, so each seed has its own. They do not depend on the method, its head
or its memory, so one extraction serves all cells. See docs/fidelity.md.
"""

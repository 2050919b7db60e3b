"""Features of a network whose batch norms stay in train mode while the stream is learnt from.

They depend on the stream's order, so they belong to a seed; they depend on nothing that a method, its head
or its memory does, so one extraction serves every cell. See docs/fidelity.md.
"""

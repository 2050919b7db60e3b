"""Run one cell: learner, metrics, capacity of its memory, and the document that holds its results."""

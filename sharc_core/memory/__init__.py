"""The episodic memory: what is kept of each task within a budget, and what is replayed of it."""

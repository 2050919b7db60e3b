"""Studies beside the grid: each measures one part on its own, as a target of its own."""

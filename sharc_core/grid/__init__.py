"""From a grid file to cells: models and defaults, loading, checks, protocols, and unrolling into cells."""

"""The plan that a call of Snakemake makes for a grid. The Snakefile and its rules read it."""

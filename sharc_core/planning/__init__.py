"""What a call of Snakemake makes of a grid: read by the Snakefile and its rules."""

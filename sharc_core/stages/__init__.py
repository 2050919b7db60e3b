"""Functions that the Snakefile's rules and the command line share: paths of files, checks and jobs."""

"""What the Snakefile's rules and the command line call: paths of a grid's files, checks, jobs."""

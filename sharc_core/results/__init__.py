"""From result documents to runs.csv, summaries, paired statistics and tables."""

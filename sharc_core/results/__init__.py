"""Results: runs.csv from the cells' documents, averages over seeds, statistics, comparisons and tables."""

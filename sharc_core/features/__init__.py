"""The feature cache: maps and pooled vectors of a data set and its augmented views, computed once."""

"""The feature cache: what a frozen backbone makes of a data set, computed once, with its augmented views."""

"""Methods: replay, baselines and closed-form classifiers, one file each; base.py has the interface."""

from sharc_core.methods.base import METHODS, Method, Task, traits

__all__ = ["METHODS", "Method", "Task", "traits"]

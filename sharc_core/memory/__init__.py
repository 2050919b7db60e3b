"""The episodic memory: what is stored within a budget, completed and replayed.

At the end of a task samples are chosen (choosing.py, within budget.py), encoded (encoding.py) and completed
(completion.py); replay.py draws minibatches from them. task_memory.py and reservoir.py put this together.
"""

"""The tasks of loaded models, one file each: a class with the method of the task, which a model inherits.

To add a task, write its file here, name its class among the bases of `TextEncoder` or `TextGenerator`, and add
it to the table of `lapwing.tasks`.
"""

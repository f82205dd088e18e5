"""Tasks: what is predicted, from what, how it is measured, coloured and filed."""

from .task import Task, get_task, list_tasks

__all__ = ["Task", "get_task", "list_tasks"]

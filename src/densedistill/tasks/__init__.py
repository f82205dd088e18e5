"""Tasks: what is predicted, from what, how it is measured, coloured and filed."""

from .task import Task, get_task, list_tasks, task_of

__all__ = ["Task", "get_task", "list_tasks", "task_of"]

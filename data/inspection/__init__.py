"""Looks at a stage's data as its model will see it. `python -m data.inspection task.json` prints a report; `pipeline inspect` asks for it.

It needs a tokenizer and so transformers, which the orchestrator never loads: that is why this is a process of its own.
"""

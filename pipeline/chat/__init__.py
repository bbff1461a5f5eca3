"""Talking to the models of a run: on a terminal, and through an endpoint. Models live in processes of their own; nothing here imports torch."""

"""What goes wrong while publishing."""

from pipeline.errors import HeldError, PipelineError, RecipeError


class PublishError(PipelineError):
    """Nothing more is sent; says what to do. A rerun goes on where this one stopped. Exit 1."""


class ChoiceError(PublishError, RecipeError):
    """What was asked for cannot be published, as the run or the words of the command stand; nothing was sent. Exit 2."""


class BusyError(PublishError, HeldError):
    """Another process publishes this run. Exit 3."""

"""What goes wrong while publishing."""

from pipeline.errors import PipelineError


class PublishError(PipelineError):
    """Nothing more is sent; says what to do. A rerun goes on where this one stopped. Exit 1."""

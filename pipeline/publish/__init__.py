"""Publishing a run's models to the Hugging Face Hub, with cards that say what they are and where they come from."""

from data.secrets import redact, secret_values
from pipeline.publish.errors import PublishError
from pipeline.publish.workflow import Publication, publish

__all__ = ["Publication", "PublishError", "publish", "redact", "secret_values"]

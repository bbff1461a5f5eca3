"""What names in a recipe are made of: patterns, and in words what they ask for."""

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""Of runs and stages, which become folders."""
TRUSTED = r"^[\w.-]+/[\w.-]+@[0-9a-f]{40}$"
"""A repository of the Hub at one commit."""
IN_WORDS = {
    NAME: "lower-case letters, digits, dots, dashes and underscores, a letter or digit first, at most 64, such as my-run",
    TRUSTED: "owner/name@ and the 40 digits of a commit",
}

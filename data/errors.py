"""What goes wrong with data. One class: the reader of the message is the person who owns the file."""


class DataError(Exception):
    """The user's data cannot be used as it is. Printed as one sentence, without a traceback; exit code 2."""

"""One self-contained HTML page of a run, and the comparison of two runs. Reads files only; never imports torch."""

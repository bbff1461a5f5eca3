"""`pipeline inspect`: what a stage will learn from, seen before it does. The looking is done by `python -m data.inspection`; here it is asked for and shown."""

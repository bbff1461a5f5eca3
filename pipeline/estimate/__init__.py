"""What a recipe needs before it is spent: parameters, memory, time, disk and price of each stage. Pure arithmetic, each formula with its source."""

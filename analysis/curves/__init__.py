"""The curve engine: the law, its rivals, and batched least squares for all of them. Arrays in, arrays out."""

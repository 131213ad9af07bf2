"""Several runs in one estimate: seeds of a recipe, shared parameters, groups and sizes."""

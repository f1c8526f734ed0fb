"""How LLaVA brings an image to its tower. Only the standard library is imported: a planner needs the names."""

SQUARE_MODES = ("pad", "crop")
MODES = (*SQUARE_MODES, "anyres")
